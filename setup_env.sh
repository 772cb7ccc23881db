#!/usr/bin/env bash
# Create .venv and install the requirements; if they are up to date, nothing is done. If sourced, also activate .venv.
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
    command -v "$python" >/dev/null || fail "there is no '$python'; install Python 3.10 to 3.13 or give its path: PYTHON=/path/to/python3 ./setup_env.sh"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$("$python" --version 2>&1) is not supported; choose a Python 3.10 to 3.13: PYTHON=/path/to/python3 ./setup_env.sh"
    say "Creating .venv with $("$python" --version 2>&1)"
    "$python" -m venv .venv || fail "the virtual environment could not be created; on Debian and Ubuntu run: apt install python3-venv"
}

# After installing a requirements file, copy it into .venv; it is installed again only if it differs from the copy.
install() {
    local list="$1" stamp=".venv/installed-$1"
    cmp -s "$list" "$stamp" && return
    "$venv_python" -m pip --version >/dev/null 2>&1 || make_venv # an interrupted creation leaves .venv without pip
    say "Installing $list (the first time this takes some minutes)"
    "$venv_python" -m pip install --disable-pip-version-check --quiet --requirement "$list" ||
        fail "$list could not be installed; check the network (or pip's index settings) and run this again; it resumes"
    [ "$list" != requirements.txt ] || mend_opencv
    cp -- "$list" "$stamp"
}

# opencv-python needs libGL, glib and X11, which servers often lack; opencv-python-headless of the same version does not.
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
        say "The checkpoints could not be downloaded. With a network connection run: ./setup_env.sh --checkpoints $1"
}

# Face detection under a free licence (1.7 MB of weights, see checkpoints/README.md) comes without being asked for.
download_faces() {
    [ -e checkpoints/face/face_detection_yunet_2023mar.onnx ] && return
    [ -e scripts/download_checkpoints.py ] || return 0
    "$venv_python" -m scripts.download_checkpoints faces >/dev/null 2>&1 ||
        say "The face mesh could not be downloaded. OpenCV 4 finds faces without it, OpenCV 5 does not; later run: $venv_python -m scripts.download_checkpoints faces"
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
        *) fail "unknown option '$1'; options: --dev, --checkpoints none|inference|all" ;;
    esac
    shift
done

[ -x "$venv_python" ] || make_venv
install requirements.txt
[ "$dev" = no ] || install requirements-dev.txt
download_faces
[ -n "$checkpoints" ] || ask_checkpoints
case "$checkpoints" in
    none | inference | all) download_checkpoints "$checkpoints" ;;
    *) fail "--checkpoints is '$checkpoints', but must be none, inference or all" ;;
esac
say "Ready. Activate it with: source .venv/bin/activate"
