"""Who hears of a night that went wrong: one line for a task that has failed for good, one for a night that is late.

Set in the environment of the scheduler, the workers and the triggerer:

    RECSYS_ALERT_COMMAND    gets the line on its standard input; default: none, the line is logged
    RECSYS_DEADLINE_HOURS   hours after which a night that is not over is late; default: 6. 0 = nobody hears of it:
                            `airflow dags test` of Airflow 3.3 fails at the end of a DAG that has such an alert.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import subprocess
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

_LOG = logging.getLogger(__name__)


def deadline() -> DeadlineAlert | None:
    """Return the alert for a night that is not over when people begin to look at it."""
    hours = float(os.environ.get("RECSYS_DEADLINE_HOURS", "6"))
    if not hours:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=AsyncCallback("recsys_alerts.late"),
    )


def failed(context: Any) -> None:
    """Say in one line which task failed, and why."""
    task = context["task_instance"]
    cause = str(context.get("exception") or "no cause is known").strip().splitlines()[0]
    tell(f"{task.dag_id} {context['run_id']}: {task.task_id} failed: {cause}")


async def late(context: Any = None, **_: Any) -> None:
    """Say in one line which night is late."""
    run = (context or {}).get("dag_run") or {}
    found = run if isinstance(run, dict) else vars(run)
    name = found.get("dag_run_id") or found.get("run_id", "")  # the API's name of it, and that of a task's context
    line = f"{found.get('dag_id', 'recsys')} {name}: is late, and not over yet"
    await asyncio.to_thread(tell, line)


def tell(line: str) -> None:
    """Log a line, and hand it to whom the people on call have named."""
    _LOG.error(line)
    command = os.environ.get("RECSYS_ALERT_COMMAND")
    if command:
        subprocess.run(shlex.split(command), input=line + "\n", text=True, timeout=60, check=False)
