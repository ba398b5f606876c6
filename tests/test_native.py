"""Kernels that several processes compile at once, as the tasks of Spark do on a new machine."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from night import REPOSITORY

PROGRAM = """
import sys, threading
import numpy as np
sys.path.insert(0, {folder!r})
import example
kind = np.dtype(sys.argv[1]).type
print("ready", flush=True)
sys.stdin.readline()
values = np.arange(6).astype(kind)
found = example.total(values)
assert found == 2 * values.sum(), found
print(*sorted(str(s[0].dtype) for s in example.total.signatures), sum(example.total.stats.cache_hits.values()))
"""
EXAMPLE = """
from recsys_spark.native import kernel


@kernel
def double(values, at):
    return values[at] + values[at]


@kernel
def total(values):
    found = values[0] - values[0]
    for at in range(len(values)):
        found += double(values, at)
    return found
"""
KINDS = ("int32", "int64", "float32", "float64")


def start(folder, kind):
    program = PROGRAM.format(folder=str(folder))
    return subprocess.Popen(
        [sys.executable, "-c", program, kind], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def answers(folder, kinds):
    """Call the kernel in a process for each kind, all at once."""
    running = [start(folder, kind) for kind in kinds]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=120)[0].split() for process in running]
    assert all(process.returncode == 0 for process in running)
    return sorted((kind, int(hits)) for kind, hits in lines)


def test_every_variant_is_compiled_once_and_kept(tmp_path):
    (tmp_path / "example.py").write_text(textwrap.dedent(EXAMPLE))
    twice = answers(tmp_path, [*KINDS, *KINDS])
    assert twice == sorted([(kind, hits) for kind in KINDS for hits in (0, 1)])  # one compiles, the other waits for it
    assert answers(tmp_path, KINDS) == sorted((kind, 1) for kind in KINDS)  # all of them from disk, each its own
    kept = sorted(p.name for p in (tmp_path / "__pycache__").glob("example.total-*.nbc"))
    assert len(kept) == len(KINDS)
