"""A disk that is full, and files that are not what was written."""

from __future__ import annotations

import os
import shutil

from soak import invariants
from soak.faults import fault
from soak.night import Night
from soak.run import FIRST_EPOCH, Broken


@fault()
def full_disk(night: Night) -> str:
    """No space left on the disk of the warehouse, of Spark's scratch and of the MLflow store.

    Remedy: make room, the same command again.
    """
    stage, left = night.draw.choice(("ingest", "build_dataset", "train_deep", "evaluate")), night.draw.uniform(0, 0.5)
    run = night.start().stage(stage)
    with night.house.full_disk(left):
        line = night.refused(run, 1, "full", "run the same command again")  # said of a server's disk, or of its own
    night.run()
    return f"{left:.1f} MB left from {stage} on; {line}"


@fault()
def parquet(night: Night) -> str:
    """A Parquet file of the warehouse that was cut off.

    Remedy: `verify` names it; its version moved away, the same command again.
    """
    house = night.house
    batch = night.draw.choice(list(invariants.batches(house.root, "events", night.day)))
    file = night.draw.choice(sorted((batch / "data").glob("*.parquet")))
    os.truncate(file, file.stat().st_size // 2)
    line = night.refused(night.start(), 3, str(file), "verify")
    found = house.tool("verify")
    if found.process.returncode != 3 or file.name not in found.error:
        raise Broken(f"verify: exit code {found.process.returncode}: {found.error}")
    shutil.rmtree(batch)
    night.run()
    if invariants.pointer(batch.parent) != batch.name:
        raise Broken(f"{batch} did not come back")
    return line.replace(str(file), f"{batch.parent.name}/…/{file.name[:10]}….parquet")


@fault()
def checkpoint(night: Night) -> str:
    """A checkpoint that was cut off, of a training whose driver was killed.

    Remedy: its folder removed, the same command again.
    """
    run = night.start().stage("train_deep")
    run.reach(FIRST_EPOCH)
    run.kill()
    night.killed(run)
    (last,) = (night.house.root / "checkpoints/neumf").glob("*/last.pt")
    os.truncate(last, last.stat().st_size // 2)
    line = night.refused(night.start(), 3, "the checkpoint cannot be read", str(last.parent))
    shutil.rmtree(last.parent)
    night.run()
    return line.replace(str(last.parent), "…")
