#!/usr/bin/env bash
# Make `.venv` ready for every other target: pinned packages, Horovod built from source, a self-check.
#
#   PYTHON=/path/to/python3.11     another Python than the one on PATH
#   RECSYS_CACHE=/some/folder      where the built Horovod is kept (~/.cache/recsys-spark otherwise)
#   RECSYS_NO_INSTALL=1            never call apt-get
#   HOROVOD_GPU_OPERATIONS=NCCL    build Horovod for GPUs; remembered by later set-ups of this checkout
#
# Done before with the same inputs, it is a no-op. Details of each step go to build/setup.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
root="$PWD"
venv="$root/.venv"
log="$root/build/setup.log"
horovod=0.28.1

# Settings that change what Horovod is compiled to, one `NAME=value` per line. Those of the last
# set-up hold until others are given: else a later `make test` would fall back to the CPU build.
horovod_options() {
    local given
    given="$(env | grep -E '^HOROVOD_(GPU|GPU_OPERATIONS|NCCL_[A-Z]+|CUDA_HOME|ROCM_HOME|BUILD_[A-Z_]+|WITH_MPI)=' | LC_ALL=C sort || true)"
    if [ -n "$given" ]; then
        echo "$given"
    else
        cat "$venv/.horovod-options" 2>/dev/null || true
    fi
}

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-16
}

options="$(horovod_options)"
# The path is part of it: a copied or moved `.venv` has the old one in its scripts.
inputs="$({
    echo "$root" "$options"
    cat requirements/*.txt setup.py recsys_spark/__init__.py scripts/{setup.sh,lib.sh,preflight.sh,self_check.py}
} | sha256)"
stamp="$venv/.stamp-$inputs"

if [ -e "$stamp" ] && [ -x "$venv/bin/python" ]; then
    scripts/preflight.sh --java
    echo "[setup] up to date"
    exit 0
fi

say() {
    echo "[setup] $*"
    echo "=== $(date -u +%H:%M:%S) $*" >>"$log"
}

# Run a step with its output in the log; on failure show the end of it.
run() {
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        echo "setup: failed: ${*##*/}; the lines above end build/setup.log" >&2
        exit 1
    fi
}

mkdir -p build
# Two targets started at once would write into the same .venv.
if command -v flock >/dev/null; then
    exec 9>build/.setup.lock
    flock 9
    if [ -e "$stamp" ]; then
        echo "[setup] up to date"
        exit 0
    fi
fi
: >"$log"
started=$SECONDS
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Someone else's module path would hide the pinned packages.
unset PYTHONPATH PYTHONHOME
# Horovod's build takes the number of jobs from here; what the outer make left says nothing about it.
unset MFLAGS MAKELEVEL MAKEOVERRIDES
export MAKEFLAGS="-j$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"

say "1/6 checking Java, compiler, make and Python"
scripts/preflight.sh
python="$(scripts/preflight.sh --python)"

# A .venv that was moved here from elsewhere, was cut off, or has another Python, is of no use.
is_usable() {
    [ -x "$venv/bin/pip" ] && [[ "$(head -n 3 "$venv/bin/pip")" == *"$venv/bin/"* ]] &&
        "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}
if is_usable; then
    say "2/6 keeping .venv"
    rm -f "$venv"/.stamp-*
else
    say "2/6 creating .venv with $("$python" --version)"
    run "$python" -m venv --clear "$venv"
fi
py="$venv/bin/python"

say "3/6 installing $(cat requirements/*.txt | grep -c ==) packages (a few minutes the first time)"
# Resolved, not --no-deps: torch comes as a CPU or a CUDA build, and only the latter has more to bring.
run "$py" -m pip install -r requirements/dev.txt -r requirements/build.txt

tag="torch$("$py" -c 'import torch; print(torch.__version__)')-cp311-$(uname -s)-$(uname -m)"
key="$horovod-$tag${options:+-$(echo "$options" | sha256)}"
cache="${RECSYS_CACHE:-${XDG_CACHE_HOME:-${HOME:-$root/build}/.cache}/recsys-spark}/horovod/$key"
if ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
    cache="$root/build/cache/horovod/$key"
    mkdir -p "$cache"
fi

install_horovod() {
    local wheels=("$cache"/horovod-*.whl)
    [ -f "${wheels[0]}" ] && "$py" -m pip install --no-deps --force-reinstall "${wheels[0]}" &&
        "$py" -c 'import horovod.torch' && echo "$key" >"$venv/.horovod-key"
}

# With the CUDA build of torch, Horovod takes any nvcc on the machine, however incomplete its toolkit,
# for a wish to build for GPUs. The wish is HOROVOD_GPU_OPERATIONS and nothing else.
build_for_cpu_unless_asked() {
    if [[ "$options" == *HOROVOD_GPU* ]]; then return; fi
    grep -q '(CUDA_HOME is not None)' "$1" && sed -i.bak 's/(CUDA_HOME is not None)/False/' "$1"
}

build_horovod() {
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    # torch's headers need C++17, Horovod's CMake files insist on 14, and the last -std wins.
    # Not a flag in CXXFLAGS: that comes before Horovod's own.
    printf '#!/bin/sh\nexec %s "$@" -std=c++17\n' "${CXX:-g++}" >"$work/cxx17"
    chmod +x "$work/cxx17"
    (
        while IFS= read -r line; do [ -z "$line" ] || export "${line?}"; done <<<"$options"
        if [ "${HOROVOD_GPU_OPERATIONS:-}" = NCCL ]; then export HOROVOD_NCCL_LINK="${HOROVOD_NCCL_LINK:-SHARED}"; fi
        if [ "${HOROVOD_WITH_MPI:-}" != 1 ]; then export HOROVOD_WITHOUT_MPI=1; fi
        export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
        # For cmake, which is in .venv.
        export PATH="$venv/bin:$PATH" CXX="$work/cxx17"
        "$py" -m pip download --no-build-isolation --no-deps --no-cache-dir --no-binary horovod \
            --dest "$work" "horovod==$horovod" &&
            tar xzf "$work/horovod-$horovod.tar.gz" -C "$work" &&
            build_for_cpu_unless_asked "$work/horovod-$horovod/cmake/Modules/FindPytorch.cmake" &&
            "$py" -m pip wheel --no-build-isolation --no-deps --no-cache-dir \
                --wheel-dir "$work" "$work/horovod-$horovod"
    ) &&
        # Renamed within one file system, so that no one ever finds half a wheel.
        cp "$work"/horovod-*.whl "$cache/.part.$$" &&
        mv "$cache/.part.$$" "$cache/$(basename "$work"/horovod-*.whl)"
}

if [ "$(cat "$venv/.horovod-key" 2>/dev/null)" = "$key" ] && "$py" -c 'import horovod.torch' >>"$log" 2>&1; then
    say "4/6 keeping Horovod $horovod"
elif install_horovod >>"$log" 2>&1; then
    say "4/6 installed Horovod $horovod from the cache"
else
    say "4/6 building Horovod $horovod (two minutes; once per torch version)"
    rm -f "$cache"/*.whl
    run build_horovod
    run install_horovod
fi
echo "$options" >"$venv/.horovod-options"

say "5/6 installing recsys_spark itself, editable"
run "$py" -m pip install --no-build-isolation --no-deps -e .
run "$py" -m pip check

say "6/6 self-check"
scripts/with_env.sh "$py" scripts/self_check.py
: >"$stamp"
echo "[setup] done in $((SECONDS - started)) s"
