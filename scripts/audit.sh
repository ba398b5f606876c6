#!/usr/bin/env bash
# Hold every pin against the advisories that PyPI knows; exit 1 where there is one, or where a package is not known there.
#
#   scripts/audit.sh [FURTHER OPTION OF pip-audit …]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-audit
if [ ! -x "$venv/bin/pip-audit" ]; then
    python="$(scripts/preflight.sh --python)"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
fi
failed=0
for file in requirements/dev.txt requirements/build.txt airflow_dags/requirements.txt; do
    echo "[audit] $file"
    # The pins are complete: nothing is resolved, and nothing that is looked at is installed.
    "$venv/bin/pip-audit" --strict --disable-pip --no-deps --progress-spinner off -r "$file" "$@" || failed=1
done
exit $failed
