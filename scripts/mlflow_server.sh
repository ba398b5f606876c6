#!/usr/bin/env bash
# The MLflow server of production: runs and registry in PostgreSQL, artifacts in a folder or bucket, which it hands out.
#
#   scripts/mlflow_server.sh [FURTHER OPTION OF mlflow server …]
#
#   BACKEND=postgresql://mlflow@127.0.0.1:5432/mlflow   no password in it: PGPASSWORD, or ~/.pgpass
#   ARTIFACTS=/srv/mlflow/artifacts                     or s3://BUCKET/PREFIX, which needs boto3 beside MLflow
#   HOST=127.0.0.1   PORT=5000   WORKERS=2
#
# It stays in the foreground, for a service manager to watch. Nobody is asked for a password by it: on any other address
# than loopback it belongs behind a proxy that does, see docs/production.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
backend="${BACKEND:-postgresql://mlflow@127.0.0.1:5432/mlflow}"
artifacts="${ARTIFACTS:-/srv/mlflow/artifacts}"
port="${PORT:-5000}"

fail() {
    echo "mlflow_server: $*" >&2
    exit 2
}

# What stands on a command line, every user of the machine can read.
if [[ "$backend" =~ ://[^/@]*:[^/@]*@ ]]; then fail "BACKEND holds a password; give it as PGPASSWORD or in ~/.pgpass"; fi
case "$backend" in
    # The driver that is among the pinned packages; SQLAlchemy would look for another.
    postgresql://*) backend="postgresql+psycopg://${backend#postgresql://}" ;;
    postgresql+psycopg://*) ;;
    *) fail "BACKEND does not begin with postgresql://; for a store of one machine there is make ui" ;;
esac
if [[ "$artifacts" != *://* ]]; then
    mkdir -p "$artifacts" || fail "$artifacts: cannot be made; set ARTIFACTS to a folder that may be written"
fi
if port_in_use "$port"; then fail "port $port is in use; choose another: PORT=$((port + 1))"; fi
# Models and runs are for the group that runs nights; nobody else reads what is served by this process alone.
umask 027
# Helper processes for jobs that this project has none of.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION="${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}"
exec scripts/with_env.sh mlflow server --backend-store-uri "$backend" --artifacts-destination "$artifacts" \
    --host "${HOST:-127.0.0.1}" --port "$port" --workers "${WORKERS:-2}" "$@"
