#!/usr/bin/env bash
# Run a command of this checkout's environment: scripts/with_env.sh spark-submit jobs/NAME.py …
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$root/.venv/bin:$PATH"
# A Spark that the machine has elsewhere would win over the pinned one.
export SPARK_HOME="$root/.venv/lib/python3.11/site-packages/pyspark"
export PYSPARK_PYTHON="$root/.venv/bin/python" PYSPARK_DRIVER_PYTHON="$root/.venv/bin/python"
unset PYTHONPATH PYTHONHOME
# Nothing of a run leaves the machine unasked.
export MLFLOW_DISABLE_TELEMETRY="${MLFLOW_DISABLE_TELEMETRY:-true}"
# The driver's JVM starts before session.py can say so: loopback is right for local[*] and for a
# cluster on this machine; the driver of a real cluster has to be reachable from its executors.
case "${MASTER:-local}" in
    local* | spark://127.* | spark://localhost*) export SPARK_LOCAL_IP="${SPARK_LOCAL_IP:-127.0.0.1}" ;;
esac
exec "$@"
