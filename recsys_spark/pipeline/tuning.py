"""Tuning: the search for a model's parameters as a job, tracked as one MLflow run with a child per trial."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.dataset.build import current_dataset
from recsys_spark.errors import ConfigError, RunError
from recsys_spark.pipeline import night
from recsys_spark.pipeline.context import Context, StageResult
from recsys_spark.tracking.promotion import METRIC
from recsys_spark.tracking.runs import TrackedRun, child_run, own_run
from recsys_spark.training.launch import under_horovodrun
from recsys_spark.tuning.report import best_yaml, cause, markdown, plot, table, write_best
from recsys_spark.tuning.search import Trial, best_of, search
from recsys_spark.tuning.space import search_space
from recsys_spark.tuning.trial import Outcome, Report, Trials
from recsys_spark.warehouse import exclusive


def tune(context: Context) -> StageResult:
    """Search the parameters of `tune.model`, judged by NDCG@10 on the valid part; promote and publish nothing.

    Raises:
        ConfigError: the space is none; or `horovodrun` started this process, where a trial starts its own ranks.
        RunError: no trial finished.
    """
    config = context.config
    settings, name = config.tune, config.tune.model
    space = search_space(config)
    if under_horovodrun():
        raise ConfigError("jobs/tune.py starts the ranks of each trial itself; run it without horovodrun")
    dataset = current_dataset(context.warehouse, context.day)
    trials = Trials(context.spark, context.warehouse, config, dataset)
    # Horovod's launcher handles signals, which only the main thread may
    batch = 1 if trials.deep else settings.parallel
    threads = min(batch, context.spark.sparkContext.defaultParallelism)
    count = space.trials(config)
    folder = context.warehouse.root.absolute() / "tuned"
    best_path = folder / f"{name}.yaml"
    progress = _Progress(count)
    # one search of a model at a time, and no erasure meanwhile
    with (
        exclusive(folder / f".{name}"),
        own_run(context.store, f"tune {name} {context.day}", "tuning", context.day) as run,
    ):
        run.params(
            {"model": name, "seed": config.seed, **settings.model_dump(exclude={"model"}, exclude_defaults=True)}
        )
        run.tags({"recsys.model": name, "recsys.dataset": dataset.name})

        def run_trial(number: int, chosen: dict[str, Any], report: Report) -> Outcome:
            return _tracked(context, run, trials, number, chosen, report)

        done = search(settings, space, count, config.seed, run_trial, batch, threads, progress)
        best = best_of(done)
        if best is None:
            raise RunError(f"no trial of {len(done)} finished; {_first_cause(done)}")
        about = f"{METRIC} {best.value:.4f} on the valid part of {context.day}: trial {best.number} of {len(done)}"
        text = best_yaml(name, trials.parameters(best.parameters), about)
        write_best(best_path, text)
        _log(run, done, best, text, str(context.day))
    _show(done, best, name, best_path)
    assert best.outcome is not None
    states = Counter(t.state for t in done)
    return StageResult(
        inputs={"dataset": dataset.name, "model": name, "sampler": settings.sampler},
        outputs={"best": str(best_path), "parameters": best.parameters, "version": best.outcome.version},
        counts={
            "trials": len(done),
            **{state: states[state] for state in ("finished", "pruned", "failed")},
            "found": sum(t.outcome.reused for t in done if t.outcome),
        },
        metrics={METRIC: best.value},
    )


def _tracked(
    context: Context, parent: TrackedRun, trials: Trials, number: int, chosen: dict[str, Any], report: Report
) -> Outcome:
    """Run a trial under an MLflow run of its own."""
    with child_run(parent, f"trial {number}", "trial", context.day) as run:
        run.params({"model": trials.name, **chosen})
        try:
            outcome = trials.run(chosen, report, night.epoch_logger(run))
        except Exception as error:
            run.tags({"recsys.why": cause(error)})
            raise
        state = "pruned" if outcome.value is None else "finished"
        run.tags({"recsys.version": outcome.version, "recsys.trial": state, "recsys.found": outcome.reused})
        run.metrics({"train_seconds": outcome.seconds})
        if outcome.value is not None:
            run.metrics({f"valid_{METRIC}": outcome.value})
        return outcome


class _Progress:
    """Says on stderr how each trial went."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.best: float | None = None

    def __call__(self, trial: Trial) -> None:
        if trial.value is not None:
            self.best = trial.value if self.best is None else max(self.best, trial.value)
        chosen = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
        print(f"[trial {trial.number + 1}/{self.trials}] {chosen}: {self._said(trial)}", file=sys.stderr, flush=True)

    def _said(self, trial: Trial) -> str:
        if trial.error is not None:
            return f"failed: {cause(trial.error)}"
        assert trial.outcome is not None
        if trial.value is None:
            return f"pruned after epoch {trial.outcome.reports[-1][0]}"
        when = "found" if trial.outcome.reused else f"{trial.outcome.seconds:.1f} s"
        return f"{METRIC} {trial.value:.4f}, best {self.best:.4f}, {when}"


def _first_cause(done: list[Trial]) -> str:
    first = next(t for t in done if t.error is not None)
    assert first.error is not None
    return f"trial {first.number} failed first: {cause(first.error)}"


def _log(run: TrackedRun, done: list[Trial], best: Trial, text: str, day: str) -> None:
    """Log the table, the picture and the best parameters to the search's run."""
    rows = table(done)
    with tempfile.TemporaryDirectory() as folder:
        csv, picture, yaml = (Path(folder) / name for name in ("trials.csv", "trials.png", "best.yaml"))
        rows.to_csv(csv, index=False)
        plot(done, picture)
        yaml.write_text(text, encoding="utf-8")
        for file in (csv, picture, yaml):
            run.artifact(file)
    run.table(rows, "trials.json")
    run.metrics({f"valid_{METRIC}": best.value or 0.0})
    run.describe(markdown(done, best, day))


def _show(done: list[Trial], best: Trial, name: str, path: Path) -> None:
    """Print the trials, best first; those that did not finish come last."""
    grid = Grid(title=f"{name}: {METRIC} on valid, full catalogue", title_justify="left")
    for column in ("trial", METRIC, *best.parameters, "state"):
        grid.add_column(column, justify="left" if column == "state" else "right", no_wrap=True)
    for trial in sorted(done, key=lambda t: (t.value is None, -(t.value or 0.0), t.number)):
        figure = "-" if trial.value is None else f"{trial.value:.4f}"
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in trial.parameters.values()]
        found = ", found" if trial.outcome and trial.outcome.reused else ""
        grid.add_row(str(trial.number), figure, *values, trial.state + found)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=True)
    console.print(grid, soft_wrap=False)
    console.print(f"best parameters  {path}")
