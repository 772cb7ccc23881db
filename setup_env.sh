#!/usr/bin/env bash
# Create .venv and install what lip-syncing needs, and what is named; if all is up to date, do nothing. If sourced, also activate .venv.
#   ./setup_env.sh [web] [train] [data] [eval] [avatars] [provenance] [dev] [--torch auto|cpu|cuda] [--checkpoints none|inference|all]
# PYTHON=python3.12 chooses the interpreter, LATENTSYNC_TORCH=cpu does as --torch cpu. uv, where it is there, installs faster than pip.
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

pip_install() {
    if command -v uv >/dev/null; then
        uv pip install --quiet --python "$venv_python" "$@"
    else
        "$venv_python" -m pip install --disable-pip-version-check --quiet "$@"
    fi
}

# A copy of pyproject.toml in .venv for each part; it is installed again only if it differs from the copy.
is_installed() {
    local part
    for part in "${parts[@]}"; do
        cmp -s pyproject.toml ".venv/installed-$part" || return 1
    done
}

install_parts() {
    local part extras
    extras="$(IFS=,; printf '%s' "${parts[*]:1}")"
    say "Installing ${parts[*]} (the first time this takes some minutes)"
    pip_install --editable ".${extras:+[$extras]}" ||
        fail "the packages could not be installed; check the network (or pip's index settings) and run this again; it resumes"
    mend_opencv
    for part in "${parts[@]}"; do
        cp -- pyproject.toml ".venv/installed-$part"
    done
}

# The usual PyTorch for Linux brings 4 GB of libraries for NVIDIA GPUs. Without a driver, the build for CPUs is installed.
install_torch() {
    local build
    [ "$(uname -s)" = Linux ] || return 0
    build="$("$venv_python" -c 'from importlib.metadata import version; print("cpu" if "+cpu" in version("torch") else "cuda")' 2>/dev/null)" || build=none
    [ "$torch" != auto ] || [ "$build" != none ] || choose_torch
    case "$torch-$build" in
        auto-* | cpu-cpu | cuda-cuda | cuda-none) ;; # installed, or comes with the other packages
        cuda-cpu) pip_install --force-reinstall torch torchvision || fail "PyTorch for GPUs could not be installed" ;;
        cpu-*)
            install_from_cpu_index ||
                say "PyTorch's index of builds for CPUs cannot be reached; the usual build, which is larger, is used"
            ;;
    esac
}

# Only from this index, as builds of PyTorch and torchvision do not mix; it is not waited for where it cannot be reached.
install_from_cpu_index() (
    unset PIP_EXTRA_INDEX_URL PIP_FIND_LINKS UV_EXTRA_INDEX_URL UV_FIND_LINKS
    export PIP_CONFIG_FILE=/dev/null PIP_RETRIES=1 PIP_TIMEOUT=20 UV_NO_CONFIG=1 UV_HTTP_TIMEOUT=20
    pip_install --force-reinstall --index-url https://download.pytorch.org/whl/cpu torch torchvision
)

choose_torch() {
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q ^GPU; then
        torch=cuda
        say "The NVIDIA driver answers: installing PyTorch for GPUs (--torch cpu for the build without)"
    else
        torch=cpu
        say "No NVIDIA driver answers: installing PyTorch for CPUs (--torch cuda for GPUs)"
    fi
}

# opencv-python needs libGL, glib and X11, which servers often lack; opencv-python-headless of the same version does not.
mend_opencv() {
    "$venv_python" -c 'import cv2' 2>/dev/null && return
    local version
    version="$("$venv_python" -c 'from importlib.metadata import version; print(version("opencv-python"))')"
    say "This machine lacks the display libraries of opencv-python; installing opencv-python-headless $version in its place"
    "$venv_python" -m pip uninstall --quiet --yes opencv-python
    pip_install --force-reinstall --no-deps "opencv-python-headless==$version" ||
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

parts=(base)
torch="${LATENTSYNC_TORCH:-auto}"
checkpoints=""
while [ $# -gt 0 ]; do
    case "$1" in
        web | train | data | eval | avatars | provenance | dev) parts+=("$1") ;;
        --torch | --checkpoints)
            [ $# -ge 2 ] || fail "$1 needs a value"
            printf -v "${1#--}" '%s' "$2" && shift
            ;;
        --torch=*) torch="${1#*=}" ;;
        --checkpoints=*) checkpoints="${1#*=}" ;;
        -h | --help) sed -n '2,4s/^# *//p' setup_env.sh && exit 0 ;;
        *) fail "unknown argument '$1'; choose web, train, data, eval, avatars, provenance, dev, --torch or --checkpoints" ;;
    esac
    shift
done
case "$torch" in
    auto | cpu | cuda) ;;
    *) fail "--torch is '$torch', but must be auto, cpu or cuda" ;;
esac

is_installed || "$venv_python" -m pip --version >/dev/null 2>&1 || make_venv # an interrupted creation leaves .venv without pip
install_torch
is_installed || install_parts
download_faces
[ -n "$checkpoints" ] || ask_checkpoints
case "$checkpoints" in
    none | inference | all) download_checkpoints "$checkpoints" ;;
    *) fail "--checkpoints is '$checkpoints', but must be none, inference or all" ;;
esac
say "Ready. Activate it with: source .venv/bin/activate"
