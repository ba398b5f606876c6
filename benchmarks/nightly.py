"""The whole night on the embedded log: seconds and rows/s of every stage, and of the same night run again.

The other side of each row is the second run of the same night, which finds every version standing: what an
interrupted night pays to go on. Rows are those that the stage works through.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _report import Row, finish, parser

BAR_SECONDS = 300.0
ROWS = {
    "generate_log": "rows_in", "ingest": "rows_in", "check_log": "events", "build_dataset": "events",
    "train_baseline": "feed_rows", "train_deep": "feed_rows", "evaluate": "test_users", "recommend": "users",
}  # fmt: skip


def night(root: Path, config: str, overrides: list[str]) -> dict[str, Any]:
    """Run one night in a process of its own and return its last line."""
    command = [
        "scripts/submit.sh", "nightly", "--config", config, f"root={root}/warehouse/night",
        f"log.path={root}/log/events", f"log.items.path={root}/log/items.jsonl", *overrides,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the night failed with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--config", default="conf/embedded.yaml", help="a configuration with an embedded log")
    options.add_argument("overrides", nargs="*", metavar="key.sub=value")
    args = options.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        first = night(Path(folder), args.config, args.overrides)
        second = night(Path(folder), args.config, args.overrides)
    rows = []
    again = "the same night again"
    for stage, seconds in first["metrics"]["seconds"].items():
        repeat = second["metrics"]["seconds"][stage]
        rows.append(Row(stage, seconds, "s", again, repeat, seconds / repeat))
        if stage in ROWS:
            rows.append(Row(f"{stage}, {ROWS[stage]}", first["counts"][ROWS[stage]] / seconds, "rows/s"))
    total = first["seconds"]
    rows.append(
        Row("the whole night", total, "s", again, second["seconds"], total / second["seconds"],
            f"under {BAR_SECONDS:.0f} s", total < BAR_SECONDS)
    )  # fmt: skip
    if first["outputs"]["version"] != second["outputs"]["version"]:
        sys.exit("the second night published another table")
    finish("nightly", rows, args.out)


if __name__ == "__main__":
    main()
