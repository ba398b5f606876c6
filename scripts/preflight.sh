#!/usr/bin/env bash
# Check that this machine has what the set-up cannot bring along: Java, a C++17 compiler, make and
# Python 3.11 with venv and headers (Horovod is compiled against them).
#
#   scripts/preflight.sh           check all; as root on Debian or Ubuntu, install what is missing
#   scripts/preflight.sh --java    check Java alone, and never install
#   scripts/preflight.sh --python  print the Python that the set-up is going to use
#
# RECSYS_NO_INSTALL=1 keeps root from installing. A failure is one line on stderr, and exit 1.
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/lib.sh"

fail() {
    echo "preflight: $*" >&2
    exit 1
}

# The candidate has to run, not just to exist: a version manager's shim may point nowhere.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3.11 python3 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Fill `problems` (words for people) and `packages` (Debian's names for the remedy).
problems=()
packages=()
check() {
    problems=() packages=()
    local problem python
    problem="$(java_problem)"
    if [ -n "$problem" ]; then
        problems+=("$problem")
        packages+=(openjdk-17-jre-headless)
    fi
    # Compiling a line tells more than a version number, and holds for any compiler in CXX.
    # shellcheck disable=SC2086  # CXX may be two words: ccache g++
    if ! echo '#include <optional>
        int main() { if constexpr (true) return std::optional<int>(0).value(); }' |
        ${CXX:-g++} -std=c++17 -fsyntax-only -x c++ - >/dev/null 2>&1; then
        problems+=("no C++17 compiler (${CXX:-g++} does not compile C++17; Horovod is built from source)")
        packages+=(g++)
    fi
    if ! command -v make >/dev/null; then
        problems+=("no make")
        packages+=(make)
    fi
    if ! python="$(find_python)"; then
        problems+=("no Python 3.11${PYTHON:+ behind PYTHON=$PYTHON}")
        packages+=(python3.11 python3.11-venv python3.11-dev)
    else
        if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            problems+=("$python lacks venv")
            packages+=(python3.11-venv)
        fi
        if ! "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' >/dev/null 2>&1; then
            problems+=("$python lacks its headers (Python.h)")
            packages+=(python3.11-dev)
        fi
    fi
}

joined() {
    local text="$1" part
    shift
    for part in "$@"; do text+=", $part"; done
    echo "$text"
}

remedy() {
    if [ -n "${JAVA_HOME:-}" ] && [[ "${problems[*]}" == *"$JAVA_HOME"* ]]; then
        # No package mends a JAVA_HOME that points elsewhere.
        echo "unset JAVA_HOME, or set it to a Java $JAVA_OLDEST"
    elif command -v apt-get >/dev/null; then
        echo "run: ${sudo}apt-get update && ${sudo}apt-get install -y ${packages[*]}"
    elif command -v dnf >/dev/null; then
        echo "run: ${sudo}dnf install -y java-17-openjdk-headless gcc-c++ make python3.11-devel"
    else
        echo "install ${packages[*]} (Debian's names) with this system's package manager"
    fi
}

sudo="sudo "
if [ "$(id -u)" = 0 ]; then sudo=""; fi

case "${1:-}" in
    --java)
        problems=() packages=(openjdk-17-jre-headless)
        problem="$(java_problem)"
        if [ -n "$problem" ]; then
            problems=("$problem")
            fail "$problem; $(remedy)"
        fi
        exit 0
        ;;
    --python)
        find_python || fail "no Python 3.11${PYTHON:+ behind PYTHON=$PYTHON}; run make setup PYTHON=/path/to/python3.11"
        exit 0
        ;;
    "") ;;
    *) fail "unknown option $1; known are --java and --python" ;;
esac

check
if [ ${#problems[@]} = 0 ]; then exit 0; fi

if [ -n "$sudo" ] || [ -n "${RECSYS_NO_INSTALL:-}" ] || ! command -v apt-get >/dev/null; then
    fail "$(joined "${problems[@]}"); $(remedy)"
fi

echo "preflight: $(joined "${problems[@]}"); installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update >&2 || fail "apt-get update failed (its output is above); $(remedy)"
# Debian 13 and later have no Java 17 but 21, which Spark takes as well.
if [[ " ${packages[*]} " == *" openjdk-17-jre-headless "* ]] && ! apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
    packages=("${packages[@]/openjdk-17-jre-headless/openjdk-21-jre-headless}")
fi
apt-get install -y --no-install-recommends "${packages[@]}" >&2 ||
    fail "apt-get install failed (its output is above); $(remedy)"
check
if [ ${#problems[@]} != 0 ]; then fail "$(joined "${problems[@]}") even after the installation; $(remedy)"; fi
