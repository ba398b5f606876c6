"""`make soak`: nights with faults, in build/soak."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from soak import report
from soak.faults import CATALOGUE
from soak.run import Broken
from soak.soak import soak

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=sorted(CATALOGUE), help="faults; default: all")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    parser.add_argument("--keep", action="store_true", help="leave the disk mounted at FOLDER/disk")
    parser.add_argument("--document", type=Path, help="put the tables of a soak that was survived into it")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its servers end, too
    try:
        good = soak(args.folder.absolute(), args.nights, args.seed, args.only, args.keep)
        if good and args.document:
            report.into(args.document, args.folder)
        sys.exit(0 if good else 1)
    except Broken as broken:
        print(f"error: {broken}", file=sys.stderr)
        sys.exit(1)
