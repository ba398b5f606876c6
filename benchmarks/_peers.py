"""The environment of the libraries that metrics are compared with; they ask for other versions than ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def peers_python() -> Path:
    """Return the interpreter of build/peers, which is made from benchmarks/peers.txt the first time."""
    python = _ROOT / "build/peers/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_ROOT / "build/peers")], check=True)
        requirements = str(_ROOT / "benchmarks/peers.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", requirements], check=True)
    return python
