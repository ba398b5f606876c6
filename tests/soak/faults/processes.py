"""Processes of a night that are killed, and a second night beside the first."""

from __future__ import annotations

import psutil

from soak.faults import fault
from soak.night import Night
from soak.run import FIRST_EPOCH, Broken, Run

_STAGES = ("ingest", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend")


@fault()
def driver(night: Night) -> str:
    """`kill -9` of the driver: its JVM, its Python process, or both.

    Remedy: the same command again.
    """
    stage, which = night.draw.choice(_STAGES), night.draw.choice(("JVM", "Python process", "JVM and Python process"))
    run = night.start().stage(stage, night.draw.uniform(0.1, 1.5))
    if which == "JVM and Python process":
        run.kill()
    else:
        family = run.family()
        python = next(p for p in family[1:] if any(part.endswith("jobs/nightly.py") for part in _command(p)))
        victim = family[0] if which == "JVM" else python
        victim.kill()
        _, alive = psutil.wait_procs(family, 60)  # what is left of it has to find that out by itself
        run.wait()
        if alive:
            raise Broken(f"{len(alive)} processes live on a minute after the {which} was killed: {alive}")
    night.killed(run)
    night.run()
    return f"{which} killed in {stage}; nothing of it lives on"


@fault()
def executor(night: Night) -> str:
    """`kill -9` of one of two executors of a cluster.

    Remedy: none, Spark runs its tasks elsewhere.
    """
    stage = night.draw.choice(("build_dataset", "train_baseline", "evaluate"))
    with night.house.cluster() as master:
        run = night.start(master=master).stage(stage, night.draw.uniform(0.2, 1.0))
        victim = next(p for p in psutil.process_iter() if _is_executor(p, str(night.house.disk)))
        victim.kill()
        night.well(run)
    return f"an executor killed in {stage}; the night went on and ended well"


def _is_executor(process: psutil.Process, disk: str) -> bool:
    try:
        return any("CoarseGrainedExecutorBackend" in part for part in _command(process)) and process.cwd().startswith(
            disk
        )
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> list[str]:
    """Return what a process was started with; nothing of one that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@fault()
def rank(night: Night) -> str:
    """`kill -9` of one of the ranks that train.

    Remedy: the same command again; training goes on behind the last whole epoch.
    """
    run = night.start().stage("train_deep")
    number = night.draw.choice((0, 1))
    _rank_of(run, number, night).kill()
    line = night.refused(run, 1, "training neumf failed", f"rank {number} died without a word")
    night.run()
    return line.partition("; the ranks' output")[0]


def _rank_of(run: Run, number: int, night: Night) -> psutil.Process:
    """Wait for a first epoch, and return the process of a rank."""
    run.reach(FIRST_EPOCH)
    for process in run.family():
        try:
            mine = process.environ().get("HOROVOD_RANK") == str(number)
            if mine and not process.children() and "python" in process.name():
                return process
        except psutil.Error:
            continue
    raise Broken("no rank was found")


@fault()
def two_nights(night: Night) -> str:
    """Two nights for one date at once.

    Remedy: none; the second is refused, the first goes on.
    """
    runs = [night.start(), night.start()]
    codes = sorted(run.wait().process.returncode for run in runs)
    if codes != [0, 1]:
        raise Broken(f"exit codes {codes}, not 0 and 1")
    (line,) = (run.error for run in runs if run.process.returncode)
    if "another run of it is alive" not in line:
        raise Broken(f"the second said {line!r}")
    return f"one night ended well, the other: exit 1: {line}"
