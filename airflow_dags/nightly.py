"""The night: raw log to published recommendations, one task for each job, for the day before.

Run it for another day with the parameter `run_date`. What stands is not made twice, so a day may be run again.
"""

from airflow.sdk import DAG, Param, chain
from recsys_alerts import deadline
from recsys_tasks import START, defaults, job

JOBS = (
    "ingest", "check_log", "build_dataset", "train_baseline", "train_deep", "evaluate", "promote", "recommend",
    "export", "report",
)  # fmt: skip

with DAG(
    "recsys_nightly",
    description="Raw log to published recommendations",
    schedule="0 3 * * *",
    start_date=START,
    catchup=False,
    max_active_runs=1,
    params={"run_date": Param(None, type=["null", "string"], format="date", description="another day than yesterday")},
    default_args=defaults(),
    deadline=deadline(),
    doc_md=__doc__,
    tags=["recsys"],
):
    chain(*[job(name) for name in JOBS])
