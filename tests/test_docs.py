"""What the documents say is so: generated parts are fresh, examples load, links, targets and jobs exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from recsys_spark.config import load_config
from recsys_spark.log.raw import FIELDS
from recsys_spark.models import check_models

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "SECURITY.md"]
README = DOCUMENTS[0].read_text("utf-8")
JOBS = sorted((ROOT / "jobs").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def blocks(language):
    """(document and number, text) of every fenced block of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        pytest.param(text, id=f"{document.name}-{number}")
        for document in DOCUMENTS
        for number, text in enumerate(fence.findall(document.read_text("utf-8")), start=1)
    ]


def anchors(document):
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def reference():
    """scripts/config_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "scripts/config_reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_up_to_date(reference, capsys):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_check_tells_a_stale_document_and_update_mends_it(reference, tmp_path, monkeypatch, capsys):
    for name in ("configuration.md", "architecture.md"):
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text("utf-8").replace("| `seed` |", "| `sed` |"))
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert reference.main(["--check"]) == 1
    assert "configuration.md: is out of date" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    assert (tmp_path / "configuration.md").read_text() == (ROOT / "docs/configuration.md").read_text("utf-8")


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_configuration_in_the_documents_loads(text, tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    check_models(config)
    assert set(config.log.columns) <= set(FIELDS)
    assert text.count("\n") <= 12, "a log of one's own takes about ten lines"


def test_there_is_an_example_of_each_format():
    formats = [load_config_format(block.values[0]) for block in blocks("yaml")]
    assert sorted(formats) == ["csv", "jsonl", "parquet"]


def load_config_format(text):
    return re.search(r"^  format: (\w+)$", text, re.MULTILINE)[1]


@pytest.mark.parametrize("text", blocks("python"))
def test_python_in_the_documents_compiles(text):
    compile(text, "example", "exec")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_and_images_lead_somewhere(document):
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    assert not broken


def test_make_targets_in_the_documents_exist():
    rules = re.findall(r"^([a-zA-Z%-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    known = re.compile("|".join(rule.replace("%", r"[\w%-]+") for rule in rules))
    named = {
        (document.name, target)
        for document in DOCUMENTS
        for target in re.findall(r"(?:^|`|,)\s*make ([a-z][\w-]*)", document.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) > 10
    assert {n for n in named if not known.fullmatch(n[1])} == set()
    shown = {target for _, target in named}
    assert {r for r in rules if "%" not in r and r != "help"} <= shown, "a target that the README leaves out"


def test_jobs_in_the_readme_are_the_jobs_there_are():
    table = re.findall(r"^\| `(\w+)` \| (.+?) \|", README.partition("## Jobs")[2].partition("\n## ")[0], re.MULTILINE)
    assert dict(table) == {job.stem: ast.get_docstring(ast.parse(job.read_text("utf-8"))) for job in JOBS}
    for document in DOCUMENTS:
        for job in re.findall(r"jobs/([a-z_]+)\.py", document.read_text("utf-8")):
            assert (ROOT / "jobs" / f"{job}.py").exists(), f"{document.name}: jobs/{job}.py"


def test_scripts_and_configurations_in_the_documents_exist():
    for document in DOCUMENTS:
        for path in re.findall(r"(?<![\w/])(?:scripts|conf|benchmarks)/[a-z0-9_-]+\.\w+", document.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_valid_compile_and_store_little(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert notebook["nbformat"] == 4
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), cell["id"], "exec")
            assert cell["outputs"] and cell["execution_count"], "run scripts/run_notebooks.py"
    assert path.stat().st_size < 100_000
    assert not re.search(r"/(?:root|home|tmp|work|Users)/", path.read_text("utf-8")), "a path of someone's machine"


def test_the_dag_compiles_and_names_the_jobs_of_a_night():
    """Not imported: Airflow lives in an environment of its own."""
    tree = ast.parse((ROOT / "airflow_dags/nightly.py").read_text("utf-8"))
    (jobs,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "JOBS"
    )
    assert [*jobs] == [
        "ingest", "check_log", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend",
        "export", "report",
    ]  # fmt: skip
    assert {*jobs} <= {job.stem for job in JOBS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_figure_is_filled_in(document):
    assert re.findall(r"@@\w+@@", document.read_text("utf-8")) == []
