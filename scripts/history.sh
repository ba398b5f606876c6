#!/usr/bin/env bash
# The Spark history server on the loopback interface: every job that wrote an event log, finished or not.
#
#   DIR=build/spark-events   folder of the event logs, the configuration's spark.event_log
#   PORT=18080               DAYS=30   days that a log is kept
#
# It stays in the foreground. Its own log rolls in build/logs/history-server.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
folder="${DIR:-build/spark-events}"
port="${PORT:-18080}"
days="${DAYS:-30}"

fail() {
    echo "history: $*" >&2
    exit 1
}

if [[ "$folder" != *://* ]]; then
    [ -d "$folder" ] || fail "$folder: no event logs yet; set spark.event_log and run a job, or name another DIR="
    folder="file://$(cd "$folder" && pwd)"
fi
for name in port days; do
    [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "${name^^}=${!name} is not a whole number above 0"
done
if port_in_use "$port"; then fail "port $port is in use; choose another: make history PORT=$((port + 1))"; fi
scripts/preflight.sh --java
log="${LOG:-$PWD/build/logs/history-server.log}"
export SPARK_DAEMON_MEMORY="${SPARK_DAEMON_MEMORY:-1g}" SPARK_LOCAL_IP=127.0.0.1
export SPARK_HISTORY_OPTS="-Dspark.history.fs.logDirectory=\"$folder\" -Dspark.history.ui.port=$port
    -Dspark.history.fs.cleaner.enabled=true -Dspark.history.fs.cleaner.maxAge=${days}d
    -Dspark.history.fs.update.interval=5s
    -Dlog4j2.configurationFile=file:$PWD/conf/prod/log4j2.properties -Drecsys.log=\"$log\""
echo "[history] http://127.0.0.1:$port, event logs of $folder, own log $log (stop with Ctrl-C)"
# Where spark-class finds Spark.
# shellcheck disable=SC2016  # for the shell that with_env.sh starts
exec scripts/with_env.sh bash -c 'exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.history.HistoryServer'
