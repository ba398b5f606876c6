"""Erase people from every table and model, and write the proof.

The ids come from a file on the worker, an id a line, so that Airflow's own database never holds them. Delete the file
when the proof is there.
"""

from airflow.sdk import DAG, Param
from recsys_tasks import START, defaults, job

PATH = r"^[A-Za-z0-9._/=+-]+$"
"""What a path may hold that becomes part of a shell's command, where RECSYS_OPERATOR is bash."""

with DAG(
    "recsys_erase_user",
    description="Erase people from every table and model",
    schedule=None,
    start_date=START,
    max_active_runs=1,
    params={"users_file": Param("", type="string", pattern=PATH, description="file with a user id a line")},
    default_args=defaults(hours=12),
    doc_md=__doc__,
    tags=["recsys"],
):
    job("erase_user", "--users-file", "{{ params.users_file }}", date=None)
