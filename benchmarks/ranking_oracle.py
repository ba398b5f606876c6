"""The rankers of a night of the embedded log, between popularity and the oracle that knows every taste.

A night is run, or the one of `--night ROOT` is read, with the parameters of `--config`. GAUC of clicks on the
impressions of its test part, which are all that people were shown on its last day: by how many users had an item in the
training part (popularity), by how probable a click on it was in the world that the log came from (the oracle), and by
each saved ranker. What is wanted is 80 % of the oracle's gain over popularity, on all impressions and on those of items
that were new to the user, which lists are made of.

A click depends on the true utility on the day, on what the user had done with the item before, and on the position. The
oracle knows the first two, the second as far as the log has it. The position it does not know, and neither does a
ranker, which is asked as it is when lists are made. Noise that the log has beside (lines that are spoilt) is nobody's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from _report import Row, finish, parser
from matplotlib import pyplot as plt
from nightly import night

from recsys_spark.config import Config, load_config
from recsys_spark.evaluation.bootstrap import Interval, bootstrap_sums_by_name, ratio_interval
from recsys_spark.evaluation.metrics.probability import gauc_sums
from recsys_spark.feed.columns import Columns, as_numpy
from recsys_spark.log import hidden_acts as acts
from recsys_spark.log import hidden_world as world
from recsys_spark.log.hidden_truth import Truth
from recsys_spark.models import popularity, torch_ranker
from recsys_spark.warehouse import Warehouse

BAR, LABEL, CONFIDENCE, REPLICATES, SEED = 0.8, "label_click", 0.95, 2_000, 42
POPULARITY, UTILITY, ORACLE = "popularity", "utility alone", "the oracle"
EVERYTHING, NEW = "all", "new to the user"
ONE_NIGHT = ["train.rankers=[din,deepfm]", "train.deep=[]"]


def read_test(warehouse: Warehouse, day: str) -> tuple[Columns, pd.DataFrame]:
    """Return the test part of the feed, encoded as the rankers read it, and the log's ids and the time of each row."""
    feed = warehouse.slot("feeds/impressions", date=day).require("add impressions to dataset.feeds")
    rows = as_numpy(pq.read_table(feed.path / "test"))
    raw = {"seconds": rows["timestamp"]}
    for column, table in (("user_id", "user_ids"), ("item_id", "item_ids")):
        ids = pq.read_table(warehouse.slot(table).require("run a night first").data).to_pandas().set_index("id")
        raw[column] = ids["raw_id"].loc[rows[column]].to_numpy()
    return rows, pd.DataFrame(raw)


def known_before(warehouse: Warehouse, shown: pd.DataFrame, kind: str) -> np.ndarray:
    """Tell of each row [n] whether its user has an event of a kind with its item before it."""
    keys, columns = ["user_id", "item_id"], ["user_id", "item_id", "event_type", "timestamp"]
    batches = [
        warehouse.slot("events", batch=b).require("run a night first") for b in warehouse.keys("events", "batch")
    ]
    events = pd.concat([pq.read_table(b.data, columns=columns).to_pandas() for b in batches])
    events = events[events["event_type"] == kind]
    seconds = (pd.to_datetime(events["timestamp"], utc=True) - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    first = events.assign(first=seconds).groupby(keys)["first"].min()
    return (shown.join(first, on=keys)["first"] < shown["seconds"]).to_numpy()


def score(
    config: Config, warehouse: Warehouse, day: str, rows: Columns, shown: pd.DataFrame
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return by name what the rows are ranked by, [n] each, and which items were new to their users."""
    truth = Truth.read(config.log.resolve().parent)
    utility = truth.utility(shown["user_id"], shown["item_id"], truth.day(shown["seconds"]))
    clicked, bought = (known_before(warehouse, shown, kind) for kind in ("click", "purchase"))
    chance = world.click_probability(utility, np.ones(len(utility), int)) * acts.repeat_share(clicked, bought)
    remedy = "run a night with it, or name others in train.rankers"
    saved = {n: warehouse.slot(f"models/{n}", date=day).require(remedy) for n in (POPULARITY, *config.train.rankers)}
    counts = popularity.load(saved[POPULARITY].path).counts
    item = rows["item_id"]
    found = {POPULARITY: np.where(item < len(counts), counts[np.minimum(item, len(counts) - 1)], 0.0)}
    batch = {name: torch.from_numpy(np.array(values)) for name, values in rows.items()}
    for name in config.train.rankers:
        ranker = torch_ranker.load(saved[name].path)
        found[name] = ranker.score_rows(batch).reshape(len(item), -1)[:, ranker.config.labels.index(LABEL)]
    return {**found, UTILITY: utility, ORACLE: chance}, ~clicked


def measure(rows: Columns, scores: dict[str, np.ndarray]) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Return the GAUC of each scores, and its share of the oracle's gain over popularity, with intervals over users.

    Of every user whose rows were clicked in part: n AUC and n, which add up over users as GAUC does.
    """
    users, of = np.unique(rows["user_id"], return_inverse=True)
    groups = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    sums = {
        name: np.array([gauc_sums(rows[LABEL][g], by[g], rows["user_id"][g]) for g in groups])
        for name, by in scores.items()
    }
    gains = {f"gain of {name}": of[:, 0] - sums[POPULARITY][:, 0] for name, of in sums.items()}
    columns = {name: of[:, 0] for name, of in sums.items()} | gains | {"rows": sums[POPULARITY][:, 1]}
    added = bootstrap_sums_by_name(columns, users, REPLICATES, SEED)
    reached = {name: ratio_interval(added[name], added["rows"], CONFIDENCE) for name in scores}
    gain = added[f"gain of {ORACLE}"]
    return reached, {name: ratio_interval(added[f"gain of {name}"], gain, CONFIDENCE) for name in scores}


def draw(found: dict[str, dict[str, Interval]], path: Path) -> None:
    """Draw GAUC with its intervals, by which impressions it is of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, sides = plt.subplots(1, len(found), figsize=(10, 3.2), layout="constrained", sharey=True)
    for axes, (which, reached) in zip(sides, found.items(), strict=True):
        for y, (name, of) in enumerate(reached.items()):
            color = "C7" if name in (POPULARITY, UTILITY, ORACLE) else "C0"
            axes.errorbar(of.mean, y, xerr=[[of.mean - of.low], [of.high - of.mean]], fmt="o", color=color)
            axes.annotate(f"{of.mean:.3f}", (of.mean, y), (0, 6), textcoords="offset points", ha="center")
        low, high = reached[POPULARITY].mean, reached[ORACLE].mean
        axes.axvline(low + BAR * (high - low), color="C3", linestyle="--", label=f"{BAR:.0%} of the oracle's gain")
        axes.set(xlabel="GAUC of clicks on the last day", title=f"impressions: {which}")
        axes.set_yticks(range(len(reached)), list(reached))
        axes.set_ylim(-0.5, len(reached) - 0.3)
    figure.legend(*sides[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--config", default="conf/embedded.yaml", help="a configuration with an embedded log")
    options.add_argument("--night", metavar="ROOT", type=Path, help="warehouse of a night that has been, of this log")
    options.add_argument("--plot", type=Path, default=Path("build/bench/ranking_oracle.png"), help="picture of GAUC")
    options.add_argument("overrides", nargs="*", metavar="key.sub=value")
    args = options.parse_intermixed_args()
    overrides = [*ONE_NIGHT, *args.overrides]
    with tempfile.TemporaryDirectory() as folder:
        root = args.night
        if root is None:
            night(Path(folder), args.config, overrides)
            root, overrides = Path(folder) / "warehouse/night", [*overrides, f"log.path={folder}/log/events"]
        config, warehouse = load_config(args.config, overrides), Warehouse(root)
        days = warehouse.keys("feeds/impressions", "date")
        if not days:
            sys.exit(f"{root}: no feed of impressions; name the root of a night with impressions in dataset.feeds")
        day = days[-1]
        rows, shown = read_test(warehouse, day)
        scores, new = score(config, warehouse, day, rows, shown)
    found, table = {}, []
    for which, keep in ((EVERYTHING, np.ones(len(new), bool)), (NEW, new)):
        part = {name: values[keep] for name, values in rows.items()}
        reached, share = measure(part, {name: values[keep] for name, values in scores.items()})
        found[which] = reached
        print(f"{day}, {which}: {keep.sum():,} impressions, {part[LABEL].mean():.3f} clicked; "
              f"{reached[ORACLE].n:,} of users who clicked on some of them and not on others")  # fmt: skip
        for name, of in reached.items():
            gain = share[name]
            print(f"  {name}: GAUC {of.mean:.4f} ({of.low:.4f} to {of.high:.4f}), {gain.mean:.2f} ({gain.low:.2f} to "
                  f"{gain.high:.2f}) of the oracle's gain")  # fmt: skip
        table += [
            Row(f"{name}, {which}", reached[name].mean, "GAUC", ORACLE, reached[ORACLE].mean, share[name].mean,
                f"≥ {BAR} of its gain", share[name].mean >= BAR)
            for name in config.train.rankers
        ]  # fmt: skip
    draw(found, args.plot)
    finish("ranking_oracle", table, args.out)


if __name__ == "__main__":
    main()
