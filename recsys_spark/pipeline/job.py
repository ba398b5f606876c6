"""The job contract: arguments in, one JSON line out, exit codes that say whose fault it was."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from recsys_spark import models
from recsys_spark.config import load_config, parse_date
from recsys_spark.errors import UserError
from recsys_spark.pipeline.causes import known_cause
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.pipeline.redaction import redacted, without_secrets
from recsys_spark.pipeline.watch import Watch
from recsys_spark.warehouse import ERASING, shared
from recsys_spark.warehouse.locks import lease

_CONTRACT = """\
overrides:  key.sub=value replaces a value of the file; the value is read as YAML, e.g.
            models.als.rank=128  'evaluation.ks=[5, 10]'  dataset.split=leave_one_out
last line:  one JSON object with stage, run_date, inputs, outputs, counts, metrics, seconds
exit code:  0 done; 2 bad configuration; 3 bad data; 1 anything else. Whatever happens, what was
            published before stays published, and the same command can be run again.
"""
_WAIT = "how long to wait where this very command is running already; default: not at all, exit code 1"


def main(name: str, stage: Callable[[Context], StageResult], about: str, argv: list[str] | None = None) -> None:
    """Run a stage as a job and exit with the contract's code.

    Args:
        name: the job's name, for its session, its runs and its last line.
        about: one line for `--help`.
    """
    sys.exit(run(name, lambda context, _: stage(context), about, argv))


def run(
    name: str,
    stage: Callable[[Context, argparse.Namespace], StageResult],
    about: str,
    argv: list[str] | None = None,
    flags: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    verbs: dict[str, str] | None = None,
    alone: bool = False,
    leased: bool = True,
) -> int:
    """Run a stage as a job and return the contract's exit code.

    Args:
        flags: further switches of this job, with their help.
        options: further options with a value, each of which may be given several times, with their help.
        verbs: what this job may be asked to do, with their help; it has to be asked for one of them.
        alone: the stage keeps all other jobs out by itself, as an erasure does; any other runs beside its like.
        leased: no second run of the same command beside this one.
    """
    parser = argparse.ArgumentParser(
        name + ".py", description=about, epilog=_CONTRACT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="YAML configuration, such as conf/embedded.yaml"
    )
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="run date; default: the last day there is")
    if leased:
        parser.add_argument("--wait", metavar="SECONDS", type=float, default=0.0, help=_WAIT)
    if verbs:
        said = "; ".join(f"{verb}: {text}" for verb, text in verbs.items())
        parser.add_argument("verb", choices=verbs, metavar="|".join(verbs), help=said)
    for flag, text in (flags or {}).items():
        parser.add_argument(flag, action="store_true", help=text)
    for option, text in (options or {}).items():
        parser.add_argument(option, action="append", metavar=option.split("-")[-1].upper(), help=text)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replaces a value of the file")
    args = parser.parse_intermixed_args(argv)  # exits with 2, the contract's code, by itself
    start = time.perf_counter()
    watch = Watch(name, args.date)
    try:
        context = _context(name, args)
        with contextlib.ExitStack() as held:
            if _is_first():
                held.enter_context(watch.follow(context))
            if leased and _is_first():
                held.enter_context(lease(context.warehouse.root, name, args.date, _command(args), args.wait))
            if not alone:
                held.enter_context(no_erasure(context))
            result = stage(context, args)
    except UserError as error:
        return watch.failed(error.exit_code, str(error))
    except KeyboardInterrupt:
        return watch.failed(1, "interrupted; run the same command again to go on")
    except Exception as error:
        found = known_cause(error, context.config)
        if found is not None:
            return watch.failed(found.exit_code, str(found))
        # not the user's to mend, so whoever is must see where it was
        print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
        return watch.failed(1, f"{name}: {_cause(error)}")
    if _is_first():
        seconds = time.perf_counter() - start
        line = last_line(name, context, result, seconds)
        watch.done(result, line, seconds)
        print(line, flush=True)
    return 0


def _command(args: argparse.Namespace) -> list[str]:
    """Return what tells a command from another of the same job and date; how long it waits does not."""
    return sorted(f"{key}={value}" for key, value in vars(args).items() if key not in ("wait", "date", "config"))


def _context(name: str, args: argparse.Namespace) -> Context:
    config = load_config(args.config, args.overrides)
    models.check_models(config)
    night = parse_date(args.date) if args.date else None
    context = Context(config, name, night)
    if _is_first():
        _ = context.store  # a tracking server that is down is found out now, not after an hour of training
    return context


def _is_first() -> bool:
    """Whether this process is the job, and not one of the further ranks that `horovodrun` started."""
    return int(os.environ.get("HOROVOD_RANK", "0")) == 0


def no_erasure(context: Context) -> contextlib.AbstractContextManager[None]:
    """Keep erasures out while the job runs: what it has read, it may write after they have looked there.

    Rank 0 does it for all, because the others write nothing.
    """
    if not _is_first():
        return contextlib.nullcontext()
    root = context.warehouse.root.absolute()
    return shared(root / ERASING, f"{root}: people are being erased from it; wait for that to end, and run this again")


def _cause(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"


def last_line(name: str, context: Context, result: StageResult, seconds: float) -> str:
    """Return the job's last line: one JSON object."""
    line: dict[str, Any] = {
        "stage": name,
        "run_date": str(context.night) if context.night else None,
        "inputs": result.inputs,
        "outputs": _finite(result.outputs),
        "counts": result.counts,
        "metrics": _finite(result.metrics),
        "seconds": round(seconds, 3),
    }
    return json.dumps(redacted(line), default=str)


def _finite(value: Any) -> Any:
    """Turn NaN, which JSON lacks, into null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and value != value else value
