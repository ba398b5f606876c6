"""Epoch checkpoints that are whole or not there, so that a killed training goes on where it stopped."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recsys_spark.errors import ConfigError, DataError, RunError

LAST = "last.pt"
BEST = "best.pt"


def save(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint aside and move it into place in one step; it is on the disk before it is in place.

    Raises:
        RunError: it cannot be written, as on a full disk. The one before it is untouched.
    """
    aside = folder / f".{name}.{uuid.uuid4().hex}"
    try:
        with open(aside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, folder / name)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of some failures to write
        aside.unlink(missing_ok=True)
        raise RunError(
            f"{folder / name}: the checkpoint cannot be written ({_said(error)}), the one before it stands; "
            "make room on the disk and run the same command again"
        ) from error


def load(folder: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read a checkpoint, or return None where there is none yet.

    Raises:
        DataError: it is damaged.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: the checkpoint cannot be read ({_said(error)}); remove {folder}, and training starts anew"
        ) from error


def check_origin(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another training than this one.

    Args:
        then, now: what the checkpoint and this training are made by, as plain values.

    Raises:
        ConfigError: they differ. Names both sides.
    """
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if keys:
        old, new = (", ".join(f"{key}={side.get(key)}" for key in keys) for side in (then, now))
        raise ConfigError(
            f"{path}: the checkpoint is of a training with {old}, this one has {new}; "
            f"remove {path.parent} to train anew, or train with what it was made with"
        )


def _said(error: Exception) -> str:
    """Return an error's first sentence: torch explains at length."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.partition(". ")[0].removesuffix(".")
