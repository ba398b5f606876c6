"""The models side by side: what they reach, against the champion, and against the night before."""

from __future__ import annotations

import math

from recsys_spark.reporting.html import Fragment, chance, interval, number, side_by_side, signed, table, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import Dot, dots
from recsys_spark.tracking.promotion import METRIC

TITLE = "Metrics"
_SHOWN = ("ndcg", "recall", "mrr", "map", "hit_rate")


def metrics(night: Night) -> Fragment:
    """Return every model with intervals, the night's comparison with the champion, and last night's figures."""
    models, results = night.measured.models, night.measured.results
    test = {name: results[name]["test"] for name in models}
    names = [f"{m}@10" for m in _SHOWN if f"{m}@10" in test[models[0]]]
    names += [m for m in ("rmse", "mae") if any(m in of for of in test.values())]
    rows = [[name, *(interval(test[name].get(m)) for m in names)] for name in models]
    users = max(test[name][METRIC].n for name in models)
    return together(
        text(f"Test part, full catalogue, {users:,} users; intervals by the Poisson bootstrap over users."),
        side_by_side(*(_plot(night, m) for m in names[:3])),
        table(["model", *names], rows, "metrics of every model on the test part"),
        _against_opponent(night),
        _against_last_night(night),
    )


def _plot(night: Night, metric: str) -> Fragment:
    rows = []
    for n, name in enumerate(night.measured.models):
        found = night.measured.results[name]["test"].get(metric)
        if found is not None:
            rows.append(Dot(name, found.mean, found.low, found.high, n))
    return dots(rows, f"{metric} on test", "Each model's mean with its interval:")


def _against_opponent(night: Night) -> Fragment:
    record = night.tracked.record
    if record is None:
        return together(Fragment("<h3>Against the champion</h3>"), text(night.tracked.why or "No decision is known."))
    rows = [
        [
            name,
            signed(of["mean"]),
            f"{signed(of['low'])} – {signed(of['high'])}",
            number(of["n"]),
            chance(of["p_adjusted"]),
        ]
        for name, of in record["metrics"].items()
        if name.endswith("@10")
    ]
    checks = [[c["name"], "passed" if c["passed"] else "failed", c["found"]] for c in record["checks"]]
    about = Fragment("<h3>{} against {}</h3>").format(record["challenger"]["model"], record["opponent"])
    found = record["difference"]
    drawn = dots(
        [Dot(name, of["mean"], of["low"], of["high"]) for name, of in record["metrics"].items()
         if name.endswith("@10") and name.split("@")[0] in (*_SHOWN, "precision") and of["mean"] is not None],
        "difference on the same users", "The challenger's mean less its opponent's, with the interval:",
    )  # fmt: skip
    on = f"on {number(found['n'])} users; p = {chance(record['p_permutation'])} by permutation"
    said = f"{METRIC} {signed(found['mean'])} {on}."
    return together(
        about, text(said), side_by_side(drawn, table(
            ["metric", "difference", "interval", "users", "p, adjusted"], rows, "differences of challenger and opponent"
        )),
        table(["check", "", "found"], checks, "what was checked besides", left=3) if checks else Fragment(""),
    )  # fmt: skip


def _against_last_night(night: Night) -> Fragment:
    head = Fragment("<h3>Against last night</h3>")
    if night.before is None:
        return together(head, Fragment('<p class="empty">No earlier night was measured.</p>'))
    rows = []
    for name in night.measured.models:
        now = night.measured.results[name]["test"][METRIC]
        was = night.before.results.get(name, {}).get("test", {}).get(METRIC)
        old = was.mean if was is not None else math.nan
        rows.append([name, interval(now), interval(was), signed(now.mean - old)])
    return together(
        head,
        text("The two nights measure other users, so that a difference is no comparison of models."),
        table(["model", str(night.day), str(night.before.day), "difference"], rows, "this night and the one before"),
    )
