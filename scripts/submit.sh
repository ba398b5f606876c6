#!/usr/bin/env bash
# spark-submit one of jobs/*.py with this checkout's environment: scripts/submit.sh NAME [ARGUMENT …]
#
#   DRIVER_MEMORY=8g   heap of the driver, instead of the configuration's spark.driver_memory
#   MASTER=spark://…   a cluster, instead of the configuration's spark.master
#   SUBMIT_ARGS=…      more options of spark-submit
#   RECSYS_UMASK=027   permissions that new files lack: nobody but owner and group reads tables and exports
#
# The exit code is the job's.
set -euo pipefail
umask "${RECSYS_UMASK:-027}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/preflight.sh --java
job="jobs/$1.py"
shift
if [ ! -f "$job" ]; then
    echo "submit: $job: no such job; there are $(cd jobs && printf '%s ' *.py)" >&2
    exit 2
fi
options="$(scripts/with_env.sh python scripts/spark_options.py "$@")" || exit $?
# Of an option that is given twice, spark-submit takes the last.
# shellcheck disable=SC2086  # options and SUBMIT_ARGS are several words
exec scripts/with_env.sh spark-submit $options ${MASTER:+--master "$MASTER"} \
    ${DRIVER_MEMORY:+--driver-memory "$DRIVER_MEMORY"} \
    --driver-java-options "-Dlog4j2.configurationFile=file:$PWD/recsys_spark/log4j2.properties -XX:+UseParallelGC" \
    ${SUBMIT_ARGS:-} "$job" "$@"
