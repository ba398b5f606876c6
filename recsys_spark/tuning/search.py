"""The search: which trials, in what order, and which are ended early.

Trials are asked for in batches (`tune.parallel`) and their results told in the order of their numbers, so the same
configuration and data give the same search, however long each trial takes. That is also how an interrupted search
goes on: it is the same one from the start, whose finished trials are found.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from recsys_spark.config import TuneConfig
from recsys_spark.errors import UserError
from recsys_spark.training.launch import StopTraining
from recsys_spark.tuning.space import Space
from recsys_spark.tuning.trial import Outcome, Report

Run = Callable[[int, dict[str, Any], Report], Outcome]
"""Runs the trial of a number with some parameters."""

_WARMUP_EPOCHS = 1
"""No trial is ended on its first epoch, which says little."""


@dataclass(frozen=True)
class Trial:
    """A trial that is over."""

    number: int
    parameters: dict[str, Any]
    state: Literal["finished", "pruned", "failed"]
    value: float | None = None
    """NDCG@10 on the valid part, of one that finished."""
    outcome: Outcome | None = None
    error: Exception | None = None


def search(
    settings: TuneConfig,
    space: Space,
    trials: int,
    seed: int,
    run: Run,
    batch: int = 1,
    threads: int = 1,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Run the trials of a search.

    Args:
        trials: how many.
        run: runs one; what it raises fails that trial alone.
        batch: trials that are asked for at a time: what they choose knows nothing of each other's results.
        threads: threads that run them; 1 = this one.
        on_trial: told of each trial when its batch is over, in the order of their numbers.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the study and every trial
    study = optuna.create_study(direction="maximize", sampler=_sampler(settings, space, seed), pruner=_pruner(settings))
    done: list[Trial] = []
    while len(done) < trials:
        asked = [study.ask(space.distributions) for _ in range(min(batch, trials - len(done)))]
        for trial, over in zip(asked, _run_batch(asked, space, run, threads), strict=True):
            _tell(study, trial, over)
            done.append(over)
            on_trial(over)
    return done


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the trial with the greatest value, the first of equals; None where none finished."""
    finished = [t for t in trials if t.state == "finished"]
    return max(finished, key=lambda t: (t.value, -t.number), default=None)


class _Grid(GridSampler):
    """A grid in a seeded order, without a word when its last point is told: `search` knows how many there are."""

    def after_trial(self, *_: Any) -> None:
        pass


def _sampler(settings: TuneConfig, space: Space, seed: int) -> BaseSampler:
    if settings.sampler == "grid":
        return _Grid({name: list(values) for name, values in space.listed.items()}, seed=seed)
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed)


def _pruner(settings: TuneConfig) -> optuna.pruners.BasePruner:
    if settings.prune_after is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=settings.prune_after, n_warmup_steps=_WARMUP_EPOCHS)


def _run_batch(asked: list[optuna.Trial], space: Space, run: Run, threads: int) -> list[Trial]:
    """Run the trials of a batch; of several with the same parameters one, and then the others, which find it done."""

    def one(trial: optuna.Trial) -> Trial:
        return _run_one(trial, space.decode(trial.params), run)

    if threads == 1:
        return [one(trial) for trial in asked]
    first = {str(trial.params): trial for trial in reversed(asked)}
    with ThreadPoolExecutor(threads) as pool:
        over = {trial.number: future for trial in first.values() for future in [pool.submit(one, trial)]}
        try:
            ready = {number: future.result() for number, future in over.items()}
        except BaseException:  # a person's interrupt: those that have not begun need not
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [ready[trial.number] if trial.number in ready else one(trial) for trial in asked]


def _run_one(trial: optuna.Trial, parameters: dict[str, Any], run: Run) -> Trial:
    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise StopTraining(f"trial {trial.number} does worse than the median at epoch {step}")

    try:
        outcome = run(trial.number, parameters, report)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exception(error)  # not the user's to mend, so whoever is must see where it was
        return Trial(trial.number, parameters, "failed", error=error)
    if outcome.reused:
        for step, value in outcome.reports:
            trial.report(value, step)
    return Trial(trial.number, parameters, "pruned" if outcome.value is None else "finished", outcome.value, outcome)


def _tell(study: optuna.Study, trial: optuna.Trial, over: Trial) -> None:
    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    study.tell(trial, over.value, states[over.state])
