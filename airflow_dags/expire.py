"""Once a week, delete the versions of tables and models that the configuration's section `expiry` does not keep."""

from airflow.sdk import DAG
from recsys_tasks import START, defaults, job

with DAG(
    "recsys_expire",
    description="Delete what is no longer wanted",
    schedule="0 15 * * 0",
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=defaults(),
    doc_md=__doc__,
    tags=["recsys"],
):
    job("warehouse", "expire", date=None, waits=False)
