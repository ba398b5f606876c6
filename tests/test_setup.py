"""The scripts that a person meets first: each failure has to be one line that says what to do."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ["bash", "sh", "env", "id", "cat", "g++", "make", "dirname", "grep", "tr", "rm", "mkdir", "ls"]
JAVA_HOW = "apt-get install -y openjdk-17-jre-headless"


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the given variables on top of a bare environment, and nothing on stdin."""
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**base, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a script failed in the agreed way; return its line."""
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def script(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    file.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder to be the whole PATH: a machine that has all but Java. Its apt-get leaves a trace when called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    # The interpreter below the virtual environment: its links need not be followed for its prefix.
    script(folder / "python3.11", f'exec {sys._base_executable} "$@"')  # type: ignore[attr-defined]
    script(folder / "apt-get", f"echo called >> {tmp_path}/apt-get.log")
    return folder


def java(folder: Path, version: str) -> None:
    script(folder / "java", f"echo 'Picked up JAVA_TOOL_OPTIONS: -Xmx1g' >&2; echo 'openjdk version \"{version}\"' >&2")


def preflight(tools: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = run(ROOT / "scripts/preflight.sh", *options, PATH=str(tools), RECSYS_NO_INSTALL="1", **environment)
    assert not (tools.parent / "apt-get.log").exists(), "something was installed"
    return done


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2", "17", "21-ea"])
def test_preflight_is_content(version: str, tools: Path) -> None:
    java(tools, version)
    done = preflight(tools)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_preflight_without_java(tools: Path) -> None:
    line = one_line(preflight(tools))
    assert line.startswith("preflight: no Java found (Spark needs Java 17); run: ")
    assert line.endswith(JAVA_HOW)


@pytest.mark.parametrize(
    ("version", "words"),
    [("11.0.21", "Java 11, too old"), ("1.8.0_292", "Java 8, too old"), ("24.0.1", "Java 24, too new")],
)
def test_preflight_with_the_wrong_java(version: str, words: str, tools: Path) -> None:
    java(tools, version)
    line = one_line(preflight(tools))
    assert f"{tools}/java is {words}" in line
    assert line.endswith(JAVA_HOW)


def test_java_alone_is_checked_before_a_job(tools: Path) -> None:
    (tools / "g++").unlink()
    assert "no Java found" in one_line(preflight(tools, "--java"))
    java(tools, "17.0.15")
    assert preflight(tools, "--java").returncode == 0


def test_java_home_wins_over_path(tools: Path, tmp_path: Path) -> None:
    java(tools, "17.0.15")
    jdk = tmp_path / "jdk"
    line = one_line(preflight(tools, JAVA_HOME=str(jdk)))
    assert f"JAVA_HOME is {jdk}, which has no bin/java" in line
    assert line.endswith("unset JAVA_HOME, or set it to a Java 17")
    (jdk / "bin").mkdir(parents=True)
    java(jdk / "bin", "11.0.21")
    assert f"{jdk}/bin/java is Java 11, too old" in one_line(preflight(tools, JAVA_HOME=str(jdk)))
    java(tools, "11.0.21")
    java(jdk / "bin", "17.0.15")
    assert preflight(tools, JAVA_HOME=str(jdk)).returncode == 0


def test_preflight_without_a_compiler(tools: Path) -> None:
    java(tools, "17.0.15")
    (tools / "g++").unlink()
    line = one_line(preflight(tools))
    assert "no C++17 compiler (g++ does not compile C++17" in line
    assert line.endswith("apt-get install -y g++")


def test_preflight_with_a_compiler_too_old_for_cpp17(tools: Path) -> None:
    java(tools, "17.0.15")
    script(tools / "old-g++", "echo 'unrecognized command line option -std=c++17' >&2; exit 1")
    assert "old-g++ does not compile C++17" in one_line(preflight(tools, CXX="old-g++"))


def test_preflight_names_all_that_is_missing_at_once(tools: Path) -> None:
    for name in ("g++", "make", "python3.11"):
        (tools / name).unlink()
    line = one_line(preflight(tools))
    for words in ("no Java found", "no C++17 compiler", "no make", "no Python 3.11"):
        assert words in line
    assert line.endswith(f"{JAVA_HOW} g++ make python3.11 python3.11-venv python3.11-dev")


def test_preflight_with_another_python(tools: Path) -> None:
    java(tools, "17.0.15")
    script(tools / "python3.12", "exit 1")
    assert "no Python 3.11 behind PYTHON=python3.12" in one_line(preflight(tools, PYTHON="python3.12"))
    found = preflight(tools, "--python")
    assert found.stdout.strip() == f"{tools}/python3.11"


def test_preflight_installs_as_root_only_what_is_missing(tools: Path, tmp_path: Path) -> None:
    java(tools, "17.0.15")
    for name in ("make", "id"):
        (tools / name).unlink()
    script(tools / "id", "echo 0")
    record = f'echo "$@" >> {tmp_path}/apt-get.log'
    script(tools / "apt-get", record)
    done = run(ROOT / "scripts/preflight.sh", PATH=str(tools))
    assert "no make even after the installation" in one_line(done)
    calls = (tmp_path / "apt-get.log").read_text().splitlines()
    assert calls == ["update", "install -y --no-install-recommends make"]
    script(tools / "apt-get", f"{record}; {shutil.which('ln')} -sf {shutil.which('make')} {tools}/make")
    done = run(ROOT / "scripts/preflight.sh", PATH=str(tools))
    assert (done.returncode, done.stdout) == (0, "preflight: no make; installing make\n")
    assert run(ROOT / "scripts/preflight.sh", PATH=str(tools)).stdout == ""


def test_setup_is_a_no_op_when_up_to_date(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "recsys_spark").mkdir()
    for name in ("setup.py", "Makefile", "recsys_spark/__init__.py"):
        shutil.copy(ROOT / name, checkout / name)
    java_less = {"JAVA_HOME": str(tmp_path / "none"), "RECSYS_NO_INSTALL": "1"}
    assert "has no bin/java" in one_line(run("scripts/setup.sh", cwd=checkout, **java_less))
    # What setup.sh does before its first decision, to learn which stamp it looks for.
    head, _, _ = (checkout / "scripts/setup.sh").read_text().partition("\nif ")
    (checkout / "scripts/stamp.sh").write_text(head + '\necho "$stamp"\n')
    stamp = run("bash", "scripts/stamp.sh", cwd=checkout)
    assert f"{checkout}/.venv/.stamp-" in stamp.stdout, stamp
    (checkout / ".venv/bin").mkdir(parents=True)
    script(checkout / ".venv/bin/python", "exit 1")
    Path(stamp.stdout.strip()).touch()
    before = sorted((str(p), p.stat().st_mtime_ns) for p in checkout.rglob("*"))
    done = run("make", "--no-print-directory", "setup", cwd=checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[setup] up to date\n", "")
    assert sorted((str(p), p.stat().st_mtime_ns) for p in checkout.rglob("*")) == before
    # Java may go after the set-up: still one line.
    assert "has no bin/java" in one_line(run("scripts/setup.sh", cwd=checkout, **java_less))
    # Another pin, and it is not up to date any more.
    with (checkout / "requirements/base.txt").open("a") as pins:
        pins.write("# another\n")
    stale = run("scripts/setup.sh", cwd=checkout, **java_less)
    assert "up to date" not in stale.stdout and "1/6" in stale.stdout


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of the loopback interface on which something listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def make_store(file: Path, runs: int) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [(str(i),) for i in range(runs)])
    connection.close()


def ui(store: Path, port: int) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, ROOT / "scripts/ui.py", "--store", store, "--port", str(port))


def test_ui_without_runs(tmp_path: Path) -> None:
    store = tmp_path / "mlflow.db"
    expected = f"ui: {store}: no runs yet; make some with `make nightly`"
    assert one_line(ui(store, 0)) == expected
    assert not store.exists()
    store.touch()
    assert one_line(ui(store, 0)) == expected
    make_store(store, runs=0)
    assert one_line(ui(store, 0)) == expected


def test_ui_with_the_port_in_use(taken: int, tmp_path: Path) -> None:
    make_store(tmp_path / "mlflow.db", runs=1)
    line = one_line(ui(tmp_path / "mlflow.db", taken))
    assert line.startswith(f"ui: port {taken} cannot be used (Address already in use)")
    assert line.endswith(f"make ui PORT={taken + 1}")


def cluster(action: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment.setdefault("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return run(ROOT / "scripts/cluster.sh", action, CLUSTER_DIR=str(folder), **environment)


@pytest.mark.parametrize("variable", ["PORT", "UI_PORT"])
def test_cluster_with_a_port_in_use(variable: str, taken: int, tmp_path: Path) -> None:
    ports = {"PORT": str(free_port()), "UI_PORT": str(free_port()), variable: str(taken)}
    line = one_line(cluster("start", tmp_path, **ports))
    assert line.startswith(f"cluster: port {taken} ")
    assert line.endswith(f"is in use; choose another: make cluster {variable}={taken + 1}")
    assert list(tmp_path.glob("*.pid")) == []


def test_cluster_that_is_not_running(tmp_path: Path) -> None:
    status = cluster("status", tmp_path)
    assert (status.returncode, status.stdout) == (1, "[cluster] not running\n")
    # A pid file may outlive its process, and the number may be someone else's by now.
    (tmp_path / "master.pid").write_text(str(os.getpid()))
    stopped = cluster("stop", tmp_path)
    assert (stopped.returncode, stopped.stdout) == (0, "[cluster] stopped\n")
    assert not (tmp_path / "master.pid").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_cluster_starts_runs_a_job_and_stops(tmp_path: Path) -> None:
    ports = {"PORT": str(free_port()), "UI_PORT": str(free_port()), "WORKER_MEMORY": "1g"}
    url = f"spark://127.0.0.1:{ports['PORT']}"
    job = tmp_path / "job.py"
    job.write_text(
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        "sc = spark.sparkContext\n"
        "print('sum', sc.parallelize(range(100), 4).map(lambda x: x + 1).sum(), sc.master)\n"
        "spark.stop()\n"
    )
    try:
        started = cluster("start", tmp_path, **ports)
        assert started.returncode == 0, started
        assert f"2 workers on {url}" in started.stdout
        assert f"running already: {url}" in cluster("start", tmp_path, **ports).stdout
        submit = ("spark-submit", "--master", url, "--executor-memory", "512m", job)
        done = run(ROOT / "scripts/with_env.sh", *submit, MASTER=url)
        assert f"sum 5050 {url}" in done.stdout, done
    finally:
        stopped = cluster("stop", tmp_path, **ports)
    assert stopped.stdout == "[cluster] stopped\n"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(ports["PORT"]))) != 0
