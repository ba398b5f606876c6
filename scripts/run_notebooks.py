"""Run notebooks cell by cell and keep what they show.

    scripts/with_env.sh python scripts/run_notebooks.py [FILE …]

There is no kernel and no IPython: a cell is Python, and what its last line is, is shown. RECSYS_CONFIG names the
configuration whose nights they look at; conf/embedded.yaml otherwise.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def execute(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """Run the cells in their order, in one namespace, and put into each what it printed and showed."""
    space: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            shown = _run("".join(cell["source"]), space, f"{name}[{number}]")
        cell["execution_count"] = number
        cell["outputs"] = []
        if printed.getvalue():
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
        if shown is not None:
            cell["outputs"].append(
                {"data": _data(shown), "execution_count": number, "metadata": {}, "output_type": "execute_result"}
            )
    return notebook


def _run(source: str, space: dict[str, Any], name: str) -> Any:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), space)
    return eval(compile(ast.Expression(last.value), name, "eval"), space) if last is not None else None


def _data(shown: Any) -> dict[str, list[str]]:
    html = getattr(shown, "_repr_html_", lambda: None)()
    text = type(shown).__name__ if html and not hasattr(shown, "columns") else repr(shown)
    return {**({"text/html": _lines(html)} if html else {}), "text/plain": _lines(text)}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(files: list[str]) -> None:
    """Run the notebooks that are named, or all."""
    for path in [Path(f) for f in files] or sorted(NOTEBOOKS.glob("*.ipynb")):
        done = execute(json.loads(path.read_text("utf-8")), path.stem)
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
