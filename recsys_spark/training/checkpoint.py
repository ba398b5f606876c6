"""Epoch checkpoints that are whole or not there, so that a killed training goes on where it stopped."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import torch

LAST = "last.pt"
BEST = "best.pt"


def save(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint aside and move it into place in one step."""
    aside = folder / f".{name}.{uuid.uuid4().hex}"
    torch.save(state, aside)
    os.replace(aside, folder / name)


def load(folder: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read a checkpoint, or return None where there is none yet."""
    path = folder / name
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None
