"""A few rows to train on, written as the data set station writes them, and a training of them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.models import module_of
from recsys_spark.training.job import TrainingJob
from recsys_spark.warehouse import MANIFEST

USERS, ITEMS, ROWS, FILES = 12, 15, 96, 4
LENGTH = 5
PLAIN = {"dim": 4, "epochs": 2, "learning_rate": 0.01}
OF_NEUMF = {"hidden": [8], "dropout": 0.0, "negatives": 2}


def write_data(root, **columns):
    """Write a feed of pairs, with further columns if there are any, and histories with something held out."""
    keys = np.random.default_rng(1).choice((USERS - 1) * (ITEMS - 1), ROWS, replace=False)
    user, item = (keys // (ITEMS - 1) + 1).astype("i4"), (keys % (ITEMS - 1) + 1).astype("i4")
    rng = np.random.default_rng(2)
    history = pa.array(rng.integers(0, ITEMS, (ROWS, LENGTH)).astype("i4").tolist(), pa.list_(pa.int32()))
    rows = pa.table({"user_id": user, "item_id": item, "history": history, **columns})
    (root / "feed" / "data").mkdir(parents=True)
    files = []
    for part, places in enumerate(np.array_split(np.arange(ROWS), FILES)):
        name = f"part-{part}.parquet"
        pq.write_table(rows.take(places), root / "feed" / "data" / name)
        files.append({"file": name, "rows": len(places), "row_groups": 1})
    for name, key, values in (("users", "user_id", user), ("items", "item_id", item)):
        ids, counts = np.unique(values, return_counts=True)
        (root / "feed" / name).mkdir()
        pq.write_table(pa.table({key: ids, "count": counts.astype("i4")}), root / "feed" / name / "part.parquet")
    types = [[f.name, f"list<{f.type.value_type}>" if pa.types.is_list(f.type) else str(f.type)] for f in rows.schema]
    manifest = {"rows": ROWS, "row_groups": FILES, "files": files, "history_length": LENGTH, "schema": types}
    (root / "feed" / MANIFEST).write_text(json.dumps(manifest))
    known = [item[user == u].tolist() for u in range(1, USERS)]
    held = [sorted(set(range(1, ITEMS)) - set(items))[:1] for items in known]
    histories = {
        "user_id": pa.array(range(1, USERS), pa.int32()), "items": pa.array(known, pa.list_(pa.int32())),
        "weights": pa.array([[1.0] * len(k) for k in known], pa.list_(pa.float32())),
        "ratings": pa.array([[float("nan")] * len(k) for k in known], pa.list_(pa.float32())),
        "held_out": pa.array(held, pa.list_(pa.int32())),
    }  # fmt: skip
    (root / "histories" / "known=train").mkdir(parents=True)
    pq.write_table(pa.table(histories), root / "histories" / "known=train" / "part.parquet")
    return root


def small_job(data, folder, model="neumf", settings=None, **how):
    """Describe a training on such data."""
    folder.mkdir(exist_ok=True)
    of_model = OF_NEUMF if model == "neumf" else {}
    config = module_of(model).Config(**{**PLAIN, **of_model, **(settings or {})}).model_dump()
    feed = data / "feed"
    return TrainingJob(
        model, config, feed, feed, data / "histories", folder, seed=3, patience=99, threads=1, valid_users=100,
        feed_workers=1, reader="petastorm", **how,
    )  # fmt: skip
