"""How the lists spread over the catalogue, beside what the models learnt from."""

from __future__ import annotations

from recsys_spark.reporting.html import Fragment, empty, percent, side_by_side, table, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import lines

TITLE = "Popularity"
LOG = "the log"


def popularity(night: Night) -> Fragment:
    """Return the Lorenz curves of the log and of each model's lists, and where on the long tail the lists are."""
    found = night.lists
    if not found.shown:
        return empty("The counts of the training part are gone: its feed is no longer in the warehouse.")
    models = [name for name in night.measured.models if name in found.shown]
    curves = {name: found.shown[name] for name in models if found.shown[name]} | {LOG: found.trained}
    tenths = {name: [(float(n), share) for n, share in enumerate(found.popular[name], start=1)] for name in models}
    rows = [[name, *(percent(found.popular[name][n]) for n in (0, 1, 4, 9))] for name in models]
    return together(
        text("First ten ranks of the test users' lists. On the diagonal every item would be shown equally often; the "
             "log's own curve says how unequal people's own choices are."),
        side_by_side(
            lines(curves, "exposure of the catalogue", "Share of all exposure by share of the items, rarest first:",
                  "share of items", "share of exposure", diagonal=True),
            lines(tenths, "exposure by popularity", "Share of the ranks, by tenth of the items, most popular first:",
                  "tenth of the items, most popular first", "share of ranks"),
        ),
        table(["model", "most popular tenth", "2nd", "5th", "last"], rows, "share of the ranks by tenth of the items"),
    )  # fmt: skip
