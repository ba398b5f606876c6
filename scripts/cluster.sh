#!/usr/bin/env bash
# A real Spark standalone cluster on the loopback interface: a master and two workers.
#
#   scripts/cluster.sh start|stop|status
#
#   PORT=7077          port of the master        UI_PORT=8080     port of its web page
#   WORKERS=2          how many workers          WORKER_CORES=1   cores of each
#   WORKER_MEMORY=2g   memory of each            CLUSTER_DIR=build/cluster   pids, logs, scratch
#
# `start` is idempotent and returns once every worker is registered.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
port="${PORT:-7077}"
ui_port="${UI_PORT:-8080}"
workers="${WORKERS:-2}"
folder="${CLUSTER_DIR:-build/cluster}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
python=.venv/bin/python

fail() {
    echo "cluster: $*" >&2
    exit 1
}

# True when the process of this pid file lives and is Spark's: pids come round again.
is_running() {
    local pid
    pid="$(cat "$1" 2>/dev/null)" || return 1
    kill -0 "$pid" 2>/dev/null || return 1
    if [ -r "/proc/$pid/cmdline" ]; then
        tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q org.apache.spark
    else
        ps -o command= -p "$pid" | grep -q org.apache.spark
    fi
}

# Print how many workers the master on the port of its web page counts; 0 where none answers.
count_workers() {
    "$python" - "$1" <<'PY' 2>/dev/null || echo 0
import json, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(json.load(opener.open(f"http://127.0.0.1:{sys.argv[1]}/json/", timeout=5))["aliveworkers"])
PY
}

launch() {
    local name="$1"
    shift
    # A session of its own, so that Ctrl-C in the terminal does not end it.
    # The lock's descriptor must not outlive this script in a daemon.
    $(command -v setsid || echo nohup) "$SPARK_HOME/bin/spark-class" "$@" \
        >"$folder/$name.log" 2>&1 </dev/null 9>&- &
    echo $! >"$folder/$name.pid"
}

stop() {
    local file waited
    local files=("$folder"/worker-*.pid "$folder"/master.pid)
    for file in "${files[@]}"; do
        if is_running "$file"; then kill "$(cat "$file")" 2>/dev/null || true; fi
    done
    for file in "${files[@]}"; do
        waited=0
        while is_running "$file"; do
            if [ $waited = 75 ]; then kill -9 "$(cat "$file")" 2>/dev/null || true; fi
            if [ $waited = 100 ]; then fail "process $(cat "$file") does not end; see $folder"; fi
            sleep 0.2
            waited=$((waited + 1))
        done
        rm -f "$file"
    done
    rm -rf "$folder/work" "$folder/scratch" "$folder/address"
}

is_up() {
    [ -f "$folder/address" ] && is_running "$folder/master.pid" || return 1
    local _ count
    read -r _ ui_was count <"$folder/address"
    [ "$(count_workers "$ui_was")" = "$count" ]
}

start() {
    local name
    for name in port ui_port workers; do
        [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "${name^^}=${!name} is not a whole number above 0"
    done
    if is_up; then
        echo "[cluster] running already: $(cut -d' ' -f1 "$folder/address")"
        return
    fi
    scripts/preflight.sh --java
    [ -x "$python" ] || fail "no .venv; run make setup"
    # What is left of a cluster of which a part died.
    stop
    if port_in_use "$port"; then fail "port $port is in use; choose another: make cluster PORT=$((port + 1))"; fi
    if port_in_use "$ui_port"; then
        fail "port $ui_port (the master's web page) is in use; choose another: make cluster UI_PORT=$((ui_port + 1))"
    fi
    SPARK_HOME="$("$python" -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent)')"
    export SPARK_HOME SPARK_LOCAL_IP=127.0.0.1 PYSPARK_PYTHON="$PWD/$python"
    export SPARK_LOCAL_DIRS="$folder/scratch" SPARK_WORKER_DIR="$folder/work" SPARK_DAEMON_MEMORY=512m
    export SPARK_DAEMON_JAVA_OPTS="-Dlog4j2.configurationFile=file:$PWD/recsys_spark/log4j2.properties"
    # Spark's own variables would win over the arguments below.
    unset SPARK_MASTER_PORT SPARK_MASTER_HOST SPARK_MASTER_WEBUI_PORT SPARK_WORKER_CORES SPARK_WORKER_MEMORY
    mkdir -p "$SPARK_LOCAL_DIRS" "$SPARK_WORKER_DIR"
    local i url="spark://127.0.0.1:$port"
    launch master org.apache.spark.deploy.master.Master --host 127.0.0.1 --port "$port" --webui-port "$ui_port"
    for ((i = 1; i <= workers; i++)); do
        launch "worker-$i" org.apache.spark.deploy.worker.Worker --host 127.0.0.1 --webui-port 0 \
            --cores "${WORKER_CORES:-1}" --memory "${WORKER_MEMORY:-2g}" "$url"
    done
    echo "$url $ui_port $workers" >"$folder/address"
    local deadline=$((SECONDS + 90))
    until is_up; do
        for file in "$folder"/*.pid; do
            if ! is_running "$file"; then
                # The launching script needs a moment to become Java.
                sleep 1
                if is_running "$file"; then continue; fi
                i="$(basename "${file%.pid}")"
                stop
                fail "$i ended: $(grep -v '^\s*at \|^WARNING' "$folder/$i.log" | tail -n 1); see $folder/$i.log"
            fi
        done
        if [ $SECONDS -gt $deadline ]; then
            stop
            fail "the workers did not register within 90 s; see the logs in $folder"
        fi
        sleep 0.3
    done
    echo "[cluster] $workers workers on $url, web page http://127.0.0.1:$ui_port; stop with make cluster-stop"
}

case "${1:-}" in
    start) start ;;
    stop)
        stop
        echo "[cluster] stopped"
        ;;
    status)
        if is_up; then
            echo "[cluster] running: $(cut -d' ' -f1 "$folder/address")"
        else
            echo "[cluster] not running"
            exit 1
        fi
        ;;
    *) fail "say start, stop or status" ;;
esac
