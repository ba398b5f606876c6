"""The night's decision: which model is the challenger, what it is held against, and what is written down of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from recsys_spark.dataset.build import Dataset
from recsys_spark.errors import DataError
from recsys_spark.evaluation.beyond import OF_HISTORY
from recsys_spark.evaluation.bootstrap import BootstrapSums
from recsys_spark.evaluation.bootstrap_rows import paired_sums, paired_values
from recsys_spark.evaluation.evaluate import from_json
from recsys_spark.evaluation.permutation import sign_flip_sums
from recsys_spark.pipeline import off_policy
from recsys_spark.pipeline.context import Context
from recsys_spark.pipeline.log_checks import GATES
from recsys_spark.pipeline.measurement import costs_of
from recsys_spark.pipeline.night import resolve_champion
from recsys_spark.schemas import USER_METRICS
from recsys_spark.tracking import promotion, registry
from recsys_spark.tracking.guardrails import guardrails
from recsys_spark.tracking.record import Evidence, decision_record, record_markdown
from recsys_spark.tracking.runs import TrackedRun
from recsys_spark.warehouse import Version


def decide(
    context: Context, dataset: Dataset, run: TrackedRun
) -> tuple[promotion.Decision, registry.Registered | None]:
    """Choose the challenger on validation, hold it against the champion on test, and act on it.

    The record of the decision goes to the run, and to the challenger's version in the registry.

    Returns:
        The decision, and the champion after it; None while nothing has beaten popularity.
    """
    slot = context.warehouse.slot(USER_METRICS.name, date=context.day)
    measured = slot.require(f"run jobs/evaluate.py --date {context.day} first")
    results = from_json(measured.manifest["results"])
    store, used = context.store, measured.manifest["candidates"]
    champion = resolve_champion(context, dataset)
    ours = {n: r for n, r in results.items() if n not in ("popularity", "champion") and "valid" in r}
    if not ours:
        return promotion.Decision(False, "no model but popularity was measured on the validation part"), champion
    best = max(sorted(ours), key=lambda n: ours[n]["valid"][promotion.METRIC].mean)
    challenger = registry.find(store, used[best])
    if challenger is None:
        raise DataError(f"{best} {used[best]} is not registered in {store.uri}; run its training job again")
    if champion is not None and champion.version == challenger.version:
        return promotion.Decision(False, f"{best} is champion already"), champion
    if challenger.rolled_back:
        return promotion.Decision(False, f"{best} {challenger.version} was rolled back: left as it is"), champion
    if champion is not None and champion.run_date > challenger.run_date:
        why = f"the champion is of {champion.run_date}, later than this run of {challenger.run_date}: left as it is"
        return promotion.Decision(False, why), champion
    opponent = "popularity"
    if champion is not None:
        opponent = next((n for n, v in used.items() if v == champion.version), "")
        if not opponent:
            raise DataError(
                f"the champion {champion.version} was not measured; run jobs/evaluate.py --date {context.day}"
            )
    config = context.config
    evidence = _evidence(context, measured, best, opponent)
    confidence, replicates = config.evaluation.confidence, config.evaluation.replicates
    of = results[best]["test"], results[opponent]["test"]
    checks = guardrails(config.promotion, *of, evidence.slices, confidence, evidence.costs[0])
    called = _called(opponent, champion)
    difference = evidence.metrics.get(promotion.METRIC, BootstrapSums.empty(replicates)).interval(confidence)
    decision = promotion.decide(best, called, difference, config.promotion.margin, checks)
    settings = {
        "confidence": confidence, "replicates": replicates, "seed": config.seed,
        "promotion": config.promotion.model_dump(),
    }  # fmt: skip
    if evidence.metrics:
        _keep(context, run, challenger, decision_record(decision, challenger, called, evidence, settings))
    if decision.promoted:
        promotion.promote(store, challenger, champion)
        return decision, challenger
    registry.set_alias(store, registry.CHALLENGER, challenger)
    return decision, champion


def _called(opponent: str, champion: registry.Registered | None) -> str:
    return f"the champion ({champion.model} of {champion.run_date})" if champion is not None else opponent


def _evidence(context: Context, measured: Version, a: str, b: str) -> Evidence:
    """Hold two models against each other, over the test users that both were measured on."""
    users = context.spark.read.parquet(measured.data)
    replicates, seed = context.config.evaluation.replicates, context.config.seed
    metrics, slices = (paired_sums(users, a, b, column, replicates, seed) for column in ("metrics", "slices"))
    metrics.pop(OF_HISTORY, None)  # says nothing of a model
    ids, differences = paired_values(users, a, b, promotion.METRIC)
    costs = costs_of(measured)
    p_value = sign_flip_sums(differences, ids, replicates, seed).p_value()
    gates, earned = context.night_run.tag(GATES), off_policy.told(context, a)
    return Evidence(metrics, slices, p_value, (costs[a], costs[b]), gates, earned)


def _keep(context: Context, run: TrackedRun, challenger: registry.Registered, record: dict[str, Any]) -> None:
    """Log the record to the run, and let the registered version say what was decided and where that is written."""
    page = record_markdown(record)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("decision.json", json.dumps(record, indent=1)), ("decision.md", page)):
            file = Path(folder) / name
            file.write_text(text + "\n", encoding="utf-8")
            run.artifact(file, "decision")
    registry.describe_decision(context.store, challenger, page, record["why"], run.run_id)
