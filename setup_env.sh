#!/usr/bin/env bash
# Make .venv with what the project needs; a second run is instant. Sourced, it also activates .venv in your shell.
#   ./setup_env.sh [--dev] [--checkpoints none|inference|all]        PYTHON=python3.12 ./setup_env.sh
if (return 0 2>/dev/null); then
    if bash -- "${BASH_SOURCE[0]:-$0}" "$@"; then
        . "$(dirname -- "${BASH_SOURCE[0]:-$0}")/.venv/bin/activate"
        return 0
    fi
    return 1
fi

set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
venv_python=".venv/bin/python"

say() { printf '%s\n' "$*"; }
fail() {
    printf 'setup_env.sh: %s\n' "$*" >&2
    exit 1
}

make_venv() {
    local python="${PYTHON:-python3}"
    command -v "$python" >/dev/null || fail "there is no '$python'; install Python 3.10 to 3.13 or name one: PYTHON=/path/to/python3 ./setup_env.sh"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$("$python" --version 2>&1) is not supported; name a Python 3.10 to 3.13: PYTHON=/path/to/python3 ./setup_env.sh"
    say "Making .venv with $("$python" --version 2>&1)"
    "$python" -m venv .venv || fail "the virtual environment could not be made; on Debian and Ubuntu run: apt install python3-venv"
}

# The stamp of an installed list of requirements is its copy inside .venv.
install() {
    local list="$1" stamp=".venv/installed-$1"
    cmp -s "$list" "$stamp" && return
    "$venv_python" -m pip --version >/dev/null 2>&1 || make_venv # one that was interrupted has no pip
    say "Installing $list (the first time this takes some minutes)"
    "$venv_python" -m pip install --disable-pip-version-check --quiet --requirement "$list" ||
        fail "$list could not be installed; check the network (or pip's index settings) and run this again, it goes on where it stopped"
    [ "$list" != requirements.txt ] || mend_opencv
    cp -- "$list" "$stamp"
}

# opencv-python needs libGL, glib and X11, which a bare server lacks; its headless twin of the same version does not.
mend_opencv() {
    "$venv_python" -c 'import cv2' 2>/dev/null && return
    local version
    version="$("$venv_python" -c 'from importlib.metadata import version; print(version("opencv-python"))')"
    say "This machine lacks the display libraries of opencv-python; installing opencv-python-headless $version in its place"
    "$venv_python" -m pip uninstall --quiet --yes opencv-python
    "$venv_python" -m pip install --disable-pip-version-check --quiet --force-reinstall --no-deps "opencv-python-headless==$version" ||
        fail "opencv-python-headless could not be installed; or install the libraries, on Debian and Ubuntu: apt install libgl1 libglib2.0-0"
    "$venv_python" -c 'import cv2' || fail "OpenCV cannot be loaded; the error is above"
}

ask_checkpoints() {
    local answer=none
    if [ -t 0 ] && [ -t 1 ] && [ -z "${CI:-}" ] && [ ! -e .venv/asked-checkpoints ]; then
        read -r -p "Download checkpoints? none, inference or all [none]: " answer </dev/tty || answer=none
        touch .venv/asked-checkpoints
    fi
    checkpoints="${answer:-none}"
}

download_checkpoints() {
    [ "$1" != none ] || return 0
    [ -e scripts/download_checkpoints.py ] || fail "scripts/download_checkpoints.py is missing; the checkout is incomplete"
    "$venv_python" -m scripts.download_checkpoints "$1" ||
        say "The checkpoints could not be downloaded. When there is a network run: ./setup_env.sh --checkpoints $1"
}

dev=no
checkpoints=""
while [ $# -gt 0 ]; do
    case "$1" in
        --dev) dev=yes ;;
        --checkpoints)
            [ $# -ge 2 ] || fail "--checkpoints needs a value: none, inference or all"
            checkpoints="$2" && shift
            ;;
        --checkpoints=*) checkpoints="${1#*=}" ;;
        -h | --help) sed -n '2,3s/^# *//p' setup_env.sh && exit 0 ;;
        *) fail "unknown option '$1'; there are --dev and --checkpoints none|inference|all" ;;
    esac
    shift
done

[ -x "$venv_python" ] || make_venv
install requirements.txt
[ "$dev" = no ] || install requirements-dev.txt
[ -n "$checkpoints" ] || ask_checkpoints
case "$checkpoints" in
    none | inference | all) download_checkpoints "$checkpoints" ;;
    *) fail "--checkpoints is one of none, inference and all, not '$checkpoints'" ;;
esac
say "Ready. Activate it with: source .venv/bin/activate"
