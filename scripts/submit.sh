#!/usr/bin/env bash
# spark-submit one of jobs/*.py with this checkout's environment: scripts/submit.sh NAME [ARGUMENT …]
#
#   DRIVER_MEMORY=4g   heap of the driver
#   MASTER=spark://…   a cluster instead of this machine's cores
#   SUBMIT_ARGS=…      more options of spark-submit
#
# The exit code is the job's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/preflight.sh --java
job="jobs/$1.py"
shift
if [ ! -f "$job" ]; then
    echo "submit: $job: no such job; there are $(cd jobs && echo ./*.py)" >&2
    exit 2
fi
# shellcheck disable=SC2086  # SUBMIT_ARGS are several words
exec scripts/with_env.sh spark-submit ${MASTER:+--master "$MASTER"} \
    --driver-memory "${DRIVER_MEMORY:-4g}" \
    --driver-java-options "-Dlog4j2.configurationFile=file:$PWD/recsys_spark/log4j2.properties" \
    ${SUBMIT_ARGS:-} "$job" "$@"
