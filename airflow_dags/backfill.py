"""The nights of a range of days, in their order: what was not run, or is to be run again after the log was mended.

One job runs them all and stops at the first that fails; tried again, it finds the finished ones done. The published
table only ever goes forward.
"""

from airflow.sdk import DAG, Param
from recsys_tasks import START, defaults, job

with DAG(
    "recsys_backfill",
    description="The nights of a range of days, in order",
    schedule=None,
    start_date=START,
    max_active_runs=1,
    params={
        "first": Param("2026-01-01", type="string", format="date", description="first day"),
        "last": Param("2026-01-02", type="string", format="date", description="last day"),
    },
    default_args=defaults(hours=48),
    doc_md=__doc__,
    tags=["recsys"],
):
    job("backfill", "--first", "{{ params.first }}", "--last", "{{ params.last }}", date=None)
