"""The week's search for a model's parameters, on the data set of the newest night.

The best ones are written below the warehouse (`tuned/NAME.yaml`); a person decides whether the nights take them.
"""

from airflow.sdk import DAG, Param
from recsys_tasks import START, defaults, job

with DAG(
    "recsys_weekly_tuning",
    description="Search a model's parameters",
    schedule="0 9 * * 0",
    start_date=START,
    catchup=False,
    max_active_runs=1,
    params={
        "run_date": Param(None, type=["null", "string"], format="date", description="another day than yesterday"),
        "model": Param("als", type="string", pattern="^[a-z0-9_]+$", description="the model to search for"),
    },
    default_args=defaults(hours=12),
    doc_md=__doc__,
    tags=["recsys"],
):
    job("tune", "tune.model={{ params.model }}")
