"""The record of a decision: everything that the gate saw, for a machine and for a person, kept with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import norm

from recsys_spark.evaluation.bootstrap import BootstrapSums
from recsys_spark.evaluation.comparisons import benjamini_hochberg
from recsys_spark.evaluation.cost import Cost
from recsys_spark.evaluation.power import minimal_detectable_effect
from recsys_spark.tracking.guardrails import METRIC, slice_losses
from recsys_spark.tracking.promotion import Decision
from recsys_spark.tracking.registry import Registered

POWER = 0.8


@dataclass(frozen=True)
class Evidence:
    """What a decision was made from: differences of challenger and opponent over the same users."""

    metrics: Mapping[str, BootstrapSums]
    """By metric."""
    slices: Mapping[str, BootstrapSums]
    """NDCG@10 by slice."""
    p_value: float
    """Of the permutation test of NDCG@10."""
    costs: tuple[Cost, Cost]
    """Of challenger and opponent."""
    gates: str | None = None
    """What the gates said of the day's log, in words; None where nobody asked them."""
    off_policy: Mapping[str, Any] | None = None
    """`OffPolicy.to_json` of the challenger: what it would have earned; None where no list was drawn by chance."""


def decision_record(
    decision: Decision, challenger: Registered, opponent: str, evidence: Evidence, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the record as JSON can hold it; NaN becomes None.

    One comparison decides, that of NDCG@10, and the challenger was chosen on another part: its interval needs no
    correction. The p-values of the metrics are adjusted by Benjamini & Hochberg, those of the slices by Holm.

    Args:
        opponent: what the challenger was held against, in words.
        settings: `confidence`, `replicates`, `seed`, and the section `promotion`.
    """
    confidence = settings["confidence"]
    error = evidence.metrics[METRIC].standard_error()
    p_slices = slice_losses(evidence.slices, 0.0, settings["promotion"]["min_slice_users"])
    metrics = {name: asdict(sums.interval(confidence)) for name, sums in sorted(evidence.metrics.items())}
    for name, p in zip(metrics, benjamini_hochberg([_two_sided(evidence.metrics[n]) for n in metrics]), strict=True):
        metrics[name]["p_adjusted"] = float(p)
    slices = {
        name: {**asdict(sums.interval(confidence)), "p_loss": p_slices.get(name)}
        for name, sums in sorted(evidence.slices.items())
    }
    record = {
        "promoted": decision.promoted,
        "why": decision.why,
        "challenger": {"model": challenger.model, "version": challenger.version, "number": challenger.number},
        "opponent": opponent,
        "metric": METRIC,
        "difference": metrics.get(METRIC),
        "standard_error": error,
        "p_permutation": evidence.p_value,
        "minimal_detectable_effect": minimal_detectable_effect(error, confidence, POWER),
        "costs": dict(zip(("challenger", "opponent"), map(asdict, evidence.costs), strict=True)),
        "data_gates": evidence.gates,
        "off_policy": evidence.off_policy,
        "checks": [asdict(check) for check in decision.checks],
        "metrics": metrics,
        "slices": slices,
        "settings": dict(settings),
    }
    cleaned: dict[str, Any] = _without_nan(record)
    return cleaned


def record_markdown(record: dict[str, Any]) -> str:
    """Return the record as a page."""
    found = record["difference"]
    lines = [
        f"**{record['why']}**",
        "",
        f"{record['challenger']['model']} (version {record['challenger']['number']}) against {record['opponent']}: "
        f"{METRIC} {_signed(found['mean'])} [{_signed(found['low'])}, {_signed(found['high'])}] on {found['n']} users, "
        f"p = {_plain(record['p_permutation'])} by permutation. With {POWER:.0%} power these users show a difference "
        f"of {_plain(record['minimal_detectable_effect'])}.",
        "",
    ]
    lines += [f"Data gates: {record['data_gates'] or 'not asked'}.", ""]
    if record["off_policy"]:
        lines += [_off_policy(record["off_policy"]), ""]
    lines += ["| | challenger | opponent |", "|---|---|---|"]
    for label, key, scale in (("ms to score a user", "score_ms", 1.0), ("MB", "bytes", 1e-6)):
        ours, theirs = (record["costs"][side][key] for side in ("challenger", "opponent"))
        lines.append(f"| {label} | {_scaled(ours, scale)} | {_scaled(theirs, scale)} |")
    lines.append("")
    if record["checks"]:
        lines += ["| check | passed | found |", "|---|---|---|"]
        lines += [f"| {c['name']} | {'yes' if c['passed'] else 'NO'} | {c['found']} |" for c in record["checks"]]
        lines.append("")
    lines += _grid("metric", record["metrics"])
    if record["slices"]:
        worst = dict(sorted(record["slices"].items(), key=lambda item: item[1]["mean"] or 0.0))
        lines += ["", f"{METRIC} by slice, worst first:", "", *_grid("slice", worst)]
    return "\n".join(lines) + "\n"


def _off_policy(found: Mapping[str, Any]) -> str:
    earned, more = (found[name] for name in ("doubly_robust", "gain"))
    gained = f"{_signed(more['mean'])} [{_signed(more['low'])}, {_signed(more['high'])}]"
    return (
        f"Off-policy, doubly robust, over {found['rounds']} lists drawn by chance "
        f"(worth {_plain(found['effective'])}): {_plain(earned['mean'])} a list, {gained} beside what was published."
    )


def _two_sided(sums: BootstrapSums) -> float:
    """P-value of no difference at all, by the normal approximation; NaN where it cannot be told."""
    error = sums.standard_error()
    return float(2 * norm.sf(abs(sums.total / sums.n) / error)) if sums.n and error > 0 else math.nan


def _grid(name: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"| {name} | difference | interval | users |", "|---|---|---|---|"]
    for label, found in rows.items():
        ends = f"{_signed(found['low'])} – {_signed(found['high'])}"
        lines.append(f"| {label} | {_signed(found['mean'])} | {ends} | {found['n']} |")
    return lines


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _scaled(value: float | None, scale: float) -> str:
    return _plain(None if value is None else value * scale)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
