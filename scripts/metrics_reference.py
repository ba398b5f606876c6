"""Write the tables of docs/metrics.md: every metric's formula, and its value beside other libraries' on the same lists.

    scripts/metrics_reference.py           update docs/metrics.md
    scripts/metrics_reference.py --check   change nothing; exit 1 where it is out of date

Formulas are the first paragraph of each function's docstring. ranx and rectools have measured the lists of
tests/metric_peers.json (see scripts/metric_peers.py); scikit-learn and pytrec_eval measure them here.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytrec_eval
from config_reference import filled
from sklearn.metrics import ndcg_score

from recsys_spark.evaluation.metrics import (
    beyond_accuracy,
    business,
    evaluate_lists,
    fairness,
    hit_matrix,
    probability,
    ranking,
    rating,
)

ROOT = Path(__file__).parents[1]
TARGET, PEERS = ROOT / "docs/metrics.md", ROOT / "tests/metric_peers.json"
SHOWN = 5
"""The cut-off of the values in the table."""
FAMILIES: tuple[tuple[str, ModuleType], ...] = (
    ("Of a list and a truth", ranking),
    ("Of ratings", rating),
    ("Of probabilities", probability),
    ("Of a business", business),
    ("Beyond accuracy", beyond_accuracy),
    ("Of fairness", fairness),
)
_NO_METRIC = ("evaluate_lists", "exposure_counts", "self_information", "popularity_ranks", "calibration")

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Same:
    """A metric of ours and of another library."""

    metric: str
    peer: str
    name: str
    """What the library calls it."""
    difference: str = ""
    """How its definition differs, in words; empty where it does not."""
    translate: Callable[[np.ndarray, dict[str, Any], int], np.ndarray] | None = None
    """Turns the library's values into what ours have to be; takes them, the case and k."""


def _capped(values: np.ndarray, case: dict[str, Any], k: int) -> np.ndarray:
    relevant = np.array([len(user["truth"]) for user in case["users"]])
    return values * relevant / np.minimum(relevant, k)


def _of_k(values: np.ndarray, case: dict[str, Any], k: int) -> np.ndarray:
    return values * np.minimum([len(user["ranked"]) for user in case["users"]], k) / k


_BY_ALL = "divides by all relevant items, ours by those that k ranks can hold"
SAME = (
    *(Same(m, "ranx", m) for m in ("precision", "recall", "f1", "hit_rate", "ndcg", "mrr")),
    Same("map", "ranx", "map", _BY_ALL, _capped),
    Same("graded_ndcg", "ranx", "graded ndcg"),
    Same("burges_ndcg", "ranx", "graded ndcg_burges"),
    *(Same(m, "rectools", m) for m in ("precision", "recall", "f1", "hit_rate", "mrr")),
    Same("capped_recall", "rectools", "r_precision"),
    Same("ndcg", "rectools", "ndcg", "with `divide_by_achievable`; its default divides by the DCG of k hits"),
    Same("map", "rectools", "map", _BY_ALL, _capped),
    Same("novelty", "rectools", "novelty"),
    Same("popularity", "rectools", "popularity"),
    Same("serendipity", "rectools", "serendipity", "divides by the length of a short list, ours by k", _of_k),
    Same("coverage", "rectools", "coverage"),
    *(Same(m, "pytrec_eval", m) for m in ("precision", "recall", "ndcg", "hit_rate", "mrr")),
    Same("map", "pytrec_eval", "map", _BY_ALL, _capped),
    Same("graded_ndcg", "pytrec_eval", "graded ndcg"),
    Same("ndcg", "scikit-learn", "ndcg_score", "wants a score for every item: what a list lacks is put behind it"),
    Same("graded_ndcg", "scikit-learn", "graded ndcg_score"),
)


def load() -> dict[str, Any]:
    """Return the lists, with the values of every library by `name@k`, one per user."""
    case: dict[str, Any] = json.loads(PEERS.read_text(encoding="utf-8"))
    values = {p: {name: np.array(v) for name, v in of.items()} for p, of in case["values"].items()}
    case["values"] = {**values, "pytrec_eval": by_pytrec(case), "scikit-learn": by_sklearn(case)}
    return case


def ours(case: dict[str, Any]) -> Values:
    """Return our values, one per user."""
    users, ks, n_items = case["users"], case["ks"], case["items"]
    ranked = np.zeros((len(users), max(len(u["ranked"]) for u in users)), np.int64)
    for row, user in zip(ranked, users, strict=True):
        row[: len(user["ranked"])] = user["ranked"]
    truth, gains = ([np.array(u[name]) for u in users] for name in ("truth", "gains"))
    found = evaluate_lists(ranked, truth, ks, gains)
    burges = evaluate_lists(ranked, truth, ks, [2.0**g - 1 for g in gains])
    had = np.bincount(np.concatenate([u["before"] for u in users]), minlength=n_items + 1)
    information = beyond_accuracy.self_information(had, len(users))
    place = beyond_accuracy.popularity_ranks(had)
    hits = hit_matrix(ranked, truth, n_items)
    for k in ks:
        shown = beyond_accuracy.exposure_counts(ranked, n_items, k)
        found |= {
            f"burges_ndcg@{k}": burges[f"graded_ndcg@{k}"],
            f"novelty@{k}": beyond_accuracy.novelty_at_k(ranked, information, k),
            f"popularity@{k}": beyond_accuracy.popularity_at_k(ranked, had.astype(float), k),
            f"serendipity@{k}": beyond_accuracy.serendipity_at_k(ranked, hits, place, n_items, k),
            f"coverage@{k}": np.array([beyond_accuracy.coverage_at_k(int((shown > 0).sum()), n_items)]),
        }
    return found


def by_pytrec(case: dict[str, Any]) -> Values:
    """Ask trec_eval, whose reciprocal rank has no cut-off, so that the run is cut for it."""
    found: dict[str, list[float]] = {}
    cuts = ",".join(map(str, case["ks"]))
    for u, user in enumerate(case["users"]):
        run = {f"i{item}": float(-r) for r, item in enumerate(user["ranked"])}
        binary, graded = (
            {f"i{i}": g for i, g in zip(user["truth"], gains, strict=True)}
            for gains in ([1] * len(user["truth"]), user["gains"])
        )
        measures = {f"{m}.{cuts}" for m in ("recall", "P", "ndcg_cut", "map_cut", "success")}
        said = pytrec_eval.RelevanceEvaluator({str(u): binary}, measures).evaluate({str(u): run})[str(u)]
        worth = pytrec_eval.RelevanceEvaluator({str(u): graded}, {f"ndcg_cut.{cuts}"}).evaluate({str(u): run})[str(u)]
        for k in case["ks"]:
            first = pytrec_eval.RelevanceEvaluator({str(u): binary}, {"recip_rank"})
            cut = {str(u): dict(list(run.items())[:k])}
            values = {
                "recall": said[f"recall_{k}"], "precision": said[f"P_{k}"], "ndcg": said[f"ndcg_cut_{k}"],
                "map": said[f"map_cut_{k}"], "hit_rate": said[f"success_{k}"],
                "graded ndcg": worth[f"ndcg_cut_{k}"], "mrr": first.evaluate(cut)[str(u)]["recip_rank"],
            }  # fmt: skip
            for name, value in values.items():
                found.setdefault(f"{name}@{k}", []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def by_sklearn(case: dict[str, Any]) -> Values:
    """Ask scikit-learn, which ranks scores of all items; what a list lacks scores far below it and is no truth."""
    found: dict[str, list[float]] = {}
    n = case["items"]
    for user in case["users"]:
        # a short list ends; n items that nobody wants stand behind it, then the rest
        score = np.concatenate([np.full(n, -2.0 * n), np.arange(-1.0, -n - 1, -1) - n])
        score[np.array(user["ranked"]) - 1] = -np.arange(len(user["ranked"]))
        for label, gains in (("", np.ones(len(user["truth"]))), ("graded ", np.array(user["gains"], float))):
            worth = np.zeros(2 * n)
            worth[np.array(user["truth"]) - 1] = gains
            for k in case["ks"]:
                value = ndcg_score(worth[None], score[None], k=k)
                found.setdefault(f"{label}ndcg_score@{k}", []).append(float(value))
    return {name: np.array(values) for name, values in found.items()}


def formulas() -> str:
    """Return a table of functions and formulas for every family."""
    parts = []
    for title, module in FAMILIES:
        lines = [f"### {title}", "", "| function | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(about)} |" for name, about in _functions(module)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _functions(module: ModuleType) -> Iterator[tuple[str, str]]:
    for name, function in vars(module).items():
        own = inspect.isfunction(function) and function.__module__ == module.__name__
        if own and not name.startswith("_") and name not in _NO_METRIC:
            yield name, " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def parity(case: dict[str, Any]) -> str:
    """Return the table of means over the users of the lists, by library."""
    own, peers = ours(case), ("ranx", "rectools", "pytrec_eval", "scikit-learn")
    lines = ["| metric | ours | " + " | ".join(peers) + " | where a definition differs |", "|---" * 7 + "|"]
    for metric in dict.fromkeys(same.metric for same in SAME):
        cells, notes = [f"{np.mean(own[f'{metric}@{SHOWN}']):.4f}"], []
        for peer in peers:
            found = next((s for s in SAME if (s.metric, s.peer) == (metric, peer)), None)
            cells.append(f"{np.mean(case['values'][peer][f'{found.name}@{SHOWN}']):.4f}" if found else "")
            if found and found.difference:
                notes.append(f"{peer} {found.difference}")
        lines.append(f"| {metric}@{SHOWN} | " + " | ".join(cells) + f" | {'; '.join(notes)} |")
    return "\n".join(lines)


def document() -> str:
    """Return docs/metrics.md as it should be."""
    text = TARGET.read_text(encoding="utf-8")
    return filled(filled(text, "formulas", formulas()), "parity", parity(load()))


def main(arguments: list[str] | None = None) -> int:
    """Update or check the document; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and fail where something would change")
    args, made = parser.parse_args(arguments), document()
    stale = TARGET.read_text(encoding="utf-8") != made
    if stale and args.check:
        print(f"{TARGET}: is out of date; run scripts/metrics_reference.py", file=sys.stderr)
    elif stale:
        TARGET.write_text(made, encoding="utf-8")
        print(f"updated {TARGET}")
    return int(args.check and stale)


if __name__ == "__main__":
    sys.exit(main())
