"""What the lists are besides right: how much of the catalogue they show, how known, varied, new, and to whom fair."""

from __future__ import annotations

from recsys_spark.evaluation.gaps import user_gaps
from recsys_spark.reporting.html import Fragment, interval, number, percent, side_by_side, table, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import Bar, bars, color

TITLE = "Beyond accuracy"
_K = 10
_FIGURES = {
    "coverage": "coverage", "gini": "Gini", "entropy": "entropy, bits", "novelty": "novelty, bits",
    "diversity": "diversity", "serendipity": "serendipity", "popularity": "popularity (ARP)",
    "popularity_lift": "popularity lift", "freshness": "freshness", "repeat_rate": "repeat rate",
}  # fmt: skip
_KINDS = {"popularity": "the long tail", "category": "categories"}


def beyond(night: Night) -> Fragment:
    """Return the figures of every model's lists, exposure against its share, and gaps between groups of users."""
    models = night.measured.models
    test = {name: night.measured.results[name]["test"] for name in models}
    shown = [m for m in _FIGURES if any(f"{m}@{_K}" in of for of in test.values())]
    head = ["model", *(_FIGURES[m] for m in shown), "churn"]
    rows = [
        [name, *(interval(test[name].get(f"{m}@{_K}"), 3) for m in shown), percent(night.lists.churn.get(name))]
        for name in models
    ]
    against = f"; churn against {night.before.day}" if night.before and night.lists.churn else ""
    return together(
        text(f"First {_K} ranks of the test users' lists{against}. docs/metrics.md has the formulas."),
        table(head, rows, "figures of every model's lists"),
        _exposure(night), _gaps(night),
    )  # fmt: skip


def _exposure(night: Night) -> Fragment:
    head = Fragment("<h3>Exposure of groups of items</h3>")
    parts = []
    for kind, groups in night.measured.groups.items():
        names = [*groups]
        for n, model in enumerate(night.measured.models):
            rows = [
                Bar(name, groups[name]["ratio"].get(model), color(n), number(groups[name]["ratio"].get(model), 2))
                for name in names
            ]
            title = f"{model}: {_KINDS.get(kind, kind)}"
            parts.append(bars(rows, title, "Exposure over the share of the training interactions:"))
    if not parts:
        return together(
            head, Fragment('<p class="empty">The evaluation of this night measured no groups of items.</p>')
        )
    about = (
        "The group's share of the exposure, 1 / log2(rank + 1), over its share of the training interactions: 1 is as "
        "people chose."
    )
    return together(head, text(about), side_by_side(*parts))


def _gaps(night: Night) -> Fragment:
    head = Fragment("<h3>Gaps between groups of users</h3>")
    found = user_gaps(night.measured.slices, night.min_slice_users)
    rows = [
        [name, what, number(g.gap), f"{g.best} ({number(g.best_mean)})", f"{g.worst} ({number(g.worst_mean)})"]
        for name in night.measured.models
        for what, g in found.get(name, {}).items()
    ]
    if not rows:
        return together(
            head, Fragment('<p class="empty">No two groups have {} users each.</p>').format(night.min_slice_users)
        )
    return together(head, table(["model", "groups by", "gap in NDCG@10", "best", "worst"], rows, "gaps", left=2))
