#!/usr/bin/env bash
# Airflow with the DAGs of airflow_dags/, in an environment of its own, on the loopback interface.
#
#   scripts/airflow.sh setup|start|test|run COMMAND …
#
#   PORT=8080                     of the web page
#   AIRFLOW_HOME=build/airflow    Airflow's database, logs and password
#   MASTER=local[*]               the Spark master of the connection spark_default
#   PYTHON=python3.11             what .venv-airflow is made with
#
# `run` runs a command of that environment, such as `airflow dags list`. The variables of airflow_dags/recsys_tasks.py
# are passed on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
root="$PWD"
venv="$root/.venv-airflow"
port="${PORT:-8080}"

fail() {
    echo "airflow: $*" >&2
    exit 1
}

setup() {
    local stamp
    stamp="$venv/.stamp-$({ echo "$root"; cat airflow_dags/requirements.txt; } | cksum | cut -d' ' -f1)"
    if [ -e "$stamp" ]; then return; fi
    mkdir -p build
    echo "[airflow] installing Airflow into .venv-airflow (a few minutes the first time)" >&2
    {
        "${PYTHON:-python3.11}" -m venv --clear "$venv" &&
            "$venv/bin/pip" install -r airflow_dags/requirements.txt
    } >build/airflow-setup.log 2>&1 ||
        { tail -n 20 build/airflow-setup.log >&2; fail "installation failed; the lines above end build/airflow-setup.log"; }
    : >"$stamp"
}

environment() {
    export AIRFLOW_HOME="${AIRFLOW_HOME:-$root/build/airflow}"
    mkdir -p "$AIRFLOW_HOME"
    AIRFLOW_HOME="$(cd "$AIRFLOW_HOME" && pwd)"
    export PATH="$venv/bin:$PATH"
    # Here the triggerer finds the callback of late nights.
    export PYTHONPATH="$root/airflow_dags"
    export RECSYS_HOME="${RECSYS_HOME:-$root}"
    export RECSYS_STATUS_DIR="${RECSYS_STATUS_DIR:-$AIRFLOW_HOME/recsys-status}"
    export AIRFLOW__CORE__DAGS_FOLDER="$root/airflow_dags"
    export AIRFLOW__CORE__LOAD_EXAMPLES=False
    export AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__API__PORT="$port"
    export AIRFLOW__API__BASE_URL="http://127.0.0.1:$port"
    export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$port/execution/"
    # Its default is 32 processes; the pools let one job run and one training.
    export AIRFLOW__CORE__PARALLELISM="${AIRFLOW__CORE__PARALLELISM:-4}"
    # Nothing of a run leaves the machine unasked.
    export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
    # The driver's JVM starts before the job can say so.
    case "${MASTER:-local}" in
        local* | spark://127.* | spark://localhost*) export SPARK_LOCAL_IP="${SPARK_LOCAL_IP:-127.0.0.1}" ;;
    esac
    if [ -z "${AIRFLOW_CONN_SPARK_DEFAULT:-}" ]; then
        export AIRFLOW_CONN_SPARK_DEFAULT="{\"conn_type\": \"spark\", \"host\": \"${MASTER:-local[*]}\"}"
    fi
}

# What would only be found out after a minute.
check() {
    if port_in_use "$port"; then fail "port $port is in use; choose another: make airflow PORT=$((port + 1))"; fi
    scripts/preflight.sh --java
}

# The database, and the pools without which tasks would wait for ever.
prepare() {
    environment
    (
        airflow db migrate &&
        python -c 'import recsys_tasks as t; print("\n".join(f"{n} {s}" for n, s in t.POOLS.items()))' |
            while read -r name slots; do
                airflow pools set "$name" "$slots" "made by scripts/airflow.sh" || exit 1
            done
    ) >"$AIRFLOW_HOME/prepare.log" 2>&1 ||
        { tail -n 20 "$AIRFLOW_HOME/prepare.log" >&2; fail "its database cannot be used; see $AIRFLOW_HOME/prepare.log"; }
}

start() {
    local users="$AIRFLOW_HOME/simple_auth_manager_passwords.json.generated"
    # In a process group of its own, because it leaves its parts behind when it is told to end.
    set -m
    airflow standalone >"$AIRFLOW_HOME/standalone.log" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'kill -- "-$pid" 2>/dev/null; wait "$pid" 2>/dev/null || true' EXIT
    trap 'exit 0' INT TERM
    until port_in_use "$port" && [ -s "$users" ]; do
        kill -0 "$pid" 2>/dev/null || { tail -n 20 "$AIRFLOW_HOME/standalone.log" >&2; fail "it did not start"; }
        sleep 1
    done
    echo "[airflow] http://127.0.0.1:$port  login: $(python -c \
        'import json, sys; print(*(f"{u} / {p}" for u, p in json.load(open(sys.argv[1])).items()))' "$users")"
    echo "[airflow] new DAGs are paused: switch recsys_nightly on there. Log: $AIRFLOW_HOME/standalone.log. Ctrl-C stops it"
    wait "$pid"
}

command="${1:-start}"
shift || true
case "$command" in
    setup) setup ;;
    start) check; setup; prepare; start ;;
    test) setup; environment; exec python -m pytest airflow_dags/tests --override-ini addopts= -p no:cacheprovider "$@" ;;
    run) setup; environment; exec "$@" ;;
    *) fail "$command: no such command; there are setup, start, test and run" ;;
esac
