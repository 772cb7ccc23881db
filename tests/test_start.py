"""What a command imports: help, errors and small tools do without PyTorch, and a job imports only what it runs.

An import that is not needed costs every start up to seconds and hundreds of megabytes. If one comes back, import it inside the
function that needs it, or from the submodule that holds the class.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Prints, at the end of a command, the names of all modules that were imported.
WATCH = """
import atexit, json, runpy, sys
sys.argv = sys.argv[1:]
atexit.register(lambda: print("MODULES", json.dumps(sorted(sys.modules)), flush=True))
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
# Libraries that no job on a CPU with cascades runs, not even in part
NOT_RUN = {
    *("diffusers", "transformers", "whisper", "face_alignment", "peft", "accelerate", "torchvision", "lpips"),
    *("scipy", "numba", "sympy", "torch._dynamo", "matplotlib", "pandas", "omegaconf", "ray", "gradio", "tensorboard"),
}
SLOW = {*NOT_RUN, "torch"} - {"pandas"}  # pandas reads the manifests, in a third of a second
COMMANDS = sorted(
    f"{room}.{path.stem}"
    for room in ("scripts", "eval")
    for path in (ROOT / room).glob("*.py")
    if "def main(" in path.read_text(encoding="utf-8")
)


def run(folder: Path, module: str, *arguments: str) -> tuple[int, str, set[str]]:
    """Run a command; returns its exit status, the last line on stderr, and the modules that it imported."""
    command = [sys.executable, "-c", WATCH, module, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    names = [line.removeprefix("MODULES ") for line in done.stdout.splitlines() if line.startswith("MODULES ")]
    assert len(names) == 1, done.stderr
    return done.returncode, (done.stderr.splitlines() or [""])[-1], set(json.loads(names[0]))


def unneeded(modules: set[str], slow: set[str]) -> list[str]:
    return sorted(slow & modules)


def test_every_command_is_known() -> None:
    assert {"scripts.inference", "scripts.train_unet", "eval.eval_lips", "eval.report"} <= set(COMMANDS)


DOORS = ["latentsync", "gradio_app"]


@pytest.mark.parametrize("command", [*DOORS, *COMMANDS])
def test_help_comes_without_pytorch(tmp_path: Path, command: str) -> None:
    status, _, modules = run(tmp_path, command, "--help")
    assert status == 0 and unneeded(modules, SLOW) == []


PAIR = ["--video_path", str(ROOT / "assets/demo_video.mp4"), "--audio_path", str(ROOT / "assets/demo_audio.wav")]
ERRORS = {
    "an unknown choice": ("inference", ["--preset", "best"], "invalid choice: 'best'"),
    "a wrong setting": ("inference", [*PAIR, "--inference_steps", "0"], "steps is 0"),
    "half of a pair": ("inference", ["--video_path", "a.mp4"], "belong together"),
    "a video that is missing": ("inference", ["--demo", "--video_path", "a.mp4", *PAIR[2:]], "there is no such file"),
    "weights that are missing": ("inference", [*PAIR, "--inference_ckpt_path", "unet.pt"], "unet.pt does not exist"),
    "an unknown suffix": ("inference", ["--video_out_path", "out.txt"], "give it a name that ends in"),
    "a list that is missing": ("inference", ["--jobs", "jobs.csv"], "jobs.csv does not exist"),
    "no configuration": ("train_unet", [], "--unet_config_path"),
    "a device without values": (
        "train_syncnet",
        ["--config_path", "configs/syncnet/base.yaml", "--device", "meta"],
        "--dry_run",
    ),
    "a configuration that is missing": (
        "train_unet",
        ["--unet_config_path", "a.yaml"],
        "a.yaml does not exist; the shipped",
    ),
    "a configuration that is missing for a video": (
        "inference",
        ["--unet_config_path", "a.yaml"],
        "a.yaml does not exist",
    ),
    "no input": ("process_data", [], "give --input_dir"),
    "no manifests": ("write_fileslist", ["--manifests", "manifests", "--out_dir", "lists"], "manifests"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_told_without_pytorch(tmp_path: Path, case: str) -> None:
    command, arguments, words = ERRORS[case]
    status, error, modules = run(tmp_path, f"scripts.{command}", *arguments)
    assert status == 2 and words in error and unneeded(modules, SLOW) == []


def test_states_of_the_weights_are_shown_without_pytorch(tmp_path: Path) -> None:
    status, _, modules = run(tmp_path, "scripts.download_checkpoints", "--check", "--folder", str(tmp_path))
    assert status == 1 and unneeded(modules, SLOW) == []


# Prints, in place of the app's address, the names of all modules that were imported, and stops.
STARTED = """
import builtins, json, os, sys
import gradio_app
def told(*words, **_):
    builtins_print("ADDRESS", words[0], flush=True)
    builtins_print("MODULES", json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)
builtins_print, builtins.print = print, told
sys.exit(gradio_app.main(sys.argv[1:]))
"""
# What the page does without until a job or an upload needs it; pandas comes with Gradio.
NOT_FOR_THE_PAGE = {*SLOW, "face_alignment", "onnxruntime", "safetensors.torch"} - {"gradio"}


@pytest.mark.slow
def test_the_page_is_there_before_pytorch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment = {**own, "PATH": os.environ["PATH"]}  # a library of Gradio reads it
    command = [sys.executable, "-c", STARTED, "--demo", "--port", port, "--folder", str(tmp_path / "app")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert "ADDRESS" in said, done.stdout + done.stderr
    assert said["ADDRESS"].startswith("Open http://127.0.0.1:"), done.stderr
    modules = set(json.loads(said["MODULES"]))
    assert {"gradio", "web.serve"} <= modules and unneeded(modules, NOT_FOR_THE_PAGE) == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "turbo"])
def test_a_job_imports_what_it_runs(tmp_path: Path, preset: str) -> None:
    out = tmp_path / "out.mp4"
    arguments = ["--preset", preset, "--limit_sec", "0.2", "--video_out_path", str(out)]
    status, error, modules = run(tmp_path, "scripts.inference", *arguments)
    assert status == 0 and out.is_file(), error
    assert "torch" in modules and unneeded(modules, NOT_RUN) == []
