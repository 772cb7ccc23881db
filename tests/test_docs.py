"""The commands and the Python snippets of README, CONTRIBUTING and docs: each names what exists, and runs where it can run here.

Every command is checked against the program's own `--help`. In the whole suite each also runs, shortened by RUN, or has its reason
in NOT_RUN. Python snippets run with tiny networks.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from latentsync.__main__ import VERBS
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import InferenceSettings
from latentsync.media.probe import probe
from tests.support.tiny import StubDetector, make_audio, make_video, scene, tiny_models

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.exists()
]
SHORT = "--demo --inference_steps 1 --guidance_scale 1 --limit_sec 0.4"
META = "--dry_run --device meta"  # builds the networks without memory; needs no weights and no clips

# beginning of a command -> what to append to it, so that it is short and needs only what the project ships
RUN = {
    "./inference.sh --video_path": SHORT,
    "python -m scripts.doctor": "",
    "python -m scripts.download_checkpoints": "--check",
    "python -m scripts.make_avatars": "--count 1 --workers 1 --frames 2",
    "python -m benchmarks.avatars": "--frames 1",
    "./train_unet.sh --unet_config_path": META,
    "./train_syncnet.sh --config_path": META,
    "python -m eval.bench_clips avatars": "--clips 1 --max_sec 0.4",
    "python -m scripts.align_clips": "--workers 1",
    "python -m benchmarks.structure": "",
    "python -m benchmarks.paste": "--repeats 1",
    "python -m benchmarks.vae": "--tiny --resolutions 64",
    "python -m benchmarks.unet_window": "--tiny --frames 2 --side 8 --steps 1 --rounds 1",
    "python -m tests.golden tests/golden/own": "",
}
LONG = "it takes minutes; its parts are covered by the tests of their rooms"
TRAINS = "it needs clips, weights or several processes; tests/training runs it with tiny networks"
NOT_RUN = {
    "./run_tests.sh": "it runs this test",
    "./setup_env.sh": "it changes the environment",
    "python -m pytest": "it is a test of this suite",
    "./inference.sh --video_path film.mp4": "its film is long; tests/inference/test_ranges.py edits ranges of a short one",
    "./inference.sh --demo --video_path data/talk": "its film is drawn by the command before it; see test_speakers.py",
    "./inference.sh --demo --video_path data/conversations": "its film is drawn by another command; see test_found_speakers.py",
    "./inference.sh": "the demo without arguments is tests/inference/test_demo.py",
    "python gradio_app.py": "it serves until it is stopped; tests/web runs it",
    "./inference.sh --video_path talk.mp4 --speakers": "its folder is made by the steps before it; see test_cues.py",
    "python docs/api_client.py": "it needs a server; tests/web/test_api.py runs it",
    "./inference.sh --provenance": "it needs a certificate; see test_provenance.py",
    "python -m scripts.provenance": "it needs a result; tests/inference/test_provenance.py runs it",
    "python -m scripts.make_avatars --conversation": "it takes minutes; tests/data/test_conversation.py makes one",
    "python -m scripts.score_demo": LONG,
    "python -m scripts.score_speakers": LONG,
    "python -m scripts.make_figures": "it overwrites the pictures of the documentation",
    "python -m scripts.precompute": TRAINS,
    "./train_unet.sh ...": TRAINS,
    "./train_syncnet.sh ...": TRAINS,
    "./data_processing_pipeline.sh": "tests/processing/test_runner.py runs it on drawn videos",
    "eval/": "tests/evaluation runs it on drawn clips",
    "python -m eval.bench_clips": "without arguments, or with a data set that is not shipped",
    "python -m benchmarks.": LONG,
    "python -m tests.golden": "its folder of recorded answers is not shipped",
    "python -m scripts.align_clips --input_dir VIDEOS": "its folders are placeholders; tests/data runs the function",
    "pip install": "it changes the environment",
    "pip wheel": "tests/test_package.py builds the wheel",
    "docker ": "it needs Docker; tests/test_docker.py tries the steps of the Dockerfile",
    "latentsync ": "tests/test_package.py runs it",
    "python -m latentsync": "tests/test_package.py runs it",
    "pre-commit": "it changes the checkout",
    "curl": "it needs a server; tests/web/test_api.py runs it",
}
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/)?(python3? |latentsync |\./\w+\.sh\b|eval/\w+\.sh\b)")


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The commands of a page, from its blocks of bash and its inline code, as one line each, without remarks."""
    text = page.read_text(encoding="utf-8")
    lines = "\n".join(fenced(page, "bash")).replace("\\\n", " ").splitlines()
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [code for code in re.findall(r"`([^`\n]+)`", outside) if PROGRAM.match(code)]
    plain = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    found = [re.sub(r"\s+", " ", line) for line in [*plain, *inline] if line and not line.startswith("#")]
    return [shortened(line) for line in found if not re.match(r"\w+=(\S*$|[\"'$])|\w+\(\)|-", line)]


def shortened(command: str) -> str:
    """Without settings of the environment and the path of the interpreter."""
    return re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command).replace(".venv/bin/", "")


ALL = sorted({command for page in PAGES for command in commands(page)})
OWN = [command for command in ALL if PROGRAM.match(command)]


def module_of(words: list[str]) -> str:
    """The Python module that a command starts; the name of a script file stands for itself."""
    if words[0].endswith(".sh"):
        last = (ROOT / words[0]).read_text(encoding="utf-8").rstrip().splitlines()[-1]
        found = re.search(r"(?:-m |launch_training\.sh\" )([\w.]+)", last)
        return found[1] if found else ""
    if words[0] == "latentsync":
        return VERBS[words[1]].module
    return words[2] if words[1] == "-m" else words[1]


def loaded(name: str) -> ModuleType:
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(f"{name}.__main__")
    except ModuleNotFoundError:
        return importlib.import_module(name)


def help_of(name: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        loaded(name).main(["--help"])
    return shown.getvalue()


@pytest.mark.parametrize("command", OWN)
def test_commands_name_programs_and_flags_that_exist(command: str) -> None:
    words = shlex.split(command)
    name = module_of(words)
    if name in ("pytest", ""):  # run_tests.sh and setup_env.sh are no Python programs
        assert words[0] != "python" or (ROOT / words[3]).exists()
        return
    known = set(re.findall(r"--\w+", help_of(name)))
    assert known, f"{name} shows no help"
    given = {word.split("=")[0] for word in words[1:] if re.match(r"--[a-z_]+(=|$)", word)}
    assert given <= known


def reason_not_to_run(command: str) -> str | None:
    """Of the longest beginning in NOT_RUN, unless RUN knows a longer one; an ellipsis is nothing that could run."""
    starts = [start for start in (*RUN, *NOT_RUN) if command.startswith(start.removesuffix(" ..."))]
    assert starts, f"add {command!r} to RUN, or to NOT_RUN with a reason"
    start = max(starts, key=len)
    return NOT_RUN.get(start) if "..." not in command else "an ellipsis stands for arguments"


def test_every_command_runs_here_or_has_a_reason() -> None:
    for command in ALL:
        reason_not_to_run(command)


def test_lists_of_commands_are_in_use() -> None:
    unused = [start for start in (*RUN, *NOT_RUN) if not any(c.startswith(start.removesuffix(" ...")) for c in ALL)]
    assert not unused


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the snippets, with the file names that the pages use."""
    make_video(tmp_path / "talk.mp4", 12)
    make_audio(tmp_path / "dubbed.wav", 0.4)
    (tmp_path / "talk.srt").write_text("1\n00:00:00,000 --> 00:00:00,400\nANNA: Good evening.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of a POSIX shell")
@pytest.mark.parametrize("command", [command for command in OWN if not reason_not_to_run(command)])
def test_commands_run(command: str, files: Path) -> None:
    start = max((start for start in RUN if command.startswith(start)), key=len)
    filled = command.replace("$CLIPS", "").replace("MEASURED", "0.94")
    words = shlex.split(f"{filled} {RUN[start]}")
    arguments = ["-m", module_of(words), *words[1:]] if words[0].endswith(".sh") else words[1:]
    arguments = [str(ROOT / word) if (ROOT / word).exists() and "/" in word else word for word in arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = ROOT if RUN[start] == META else files  # a dry run writes nothing
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    allowed = (0, 1) if "download_checkpoints" in command else (0,)  # 1: files are missing, which it lists
    assert done.returncode in allowed, done.stdout + done.stderr


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> LipsyncPipeline:
    """Tiny networks in place of the official weights."""
    pipeline = LipsyncPipeline(tiny_models(), StubDetector())
    monkeypatch.setattr(LipsyncPipeline, "from_pretrained", lambda *_: pipeline)
    return pipeline


def snippets() -> list[tuple[str, str]]:
    return [(page.name, code) for page in PAGES for code in fenced(page, "python")]


@pytest.mark.parametrize(("page", "code"), snippets(), ids=lambda value: value[:20] if value.endswith(".md") else "")
def test_python_snippets_run(page: str, code: str, files: Path, tiny: LipsyncPipeline) -> None:
    if "httpx" in code:
        pytest.skip("it needs a server; tests/web/test_api.py runs it")
    shown: list[np.ndarray] = []
    names = {
        "pipeline": tiny,
        "settings": InferenceSettings(steps=1, guidance_scale=1.0),
        "waveform": np.zeros(6_400, np.float32),
        "camera": [scene(index) for index in range(10)],
        "show": shown.append,
        "speak": lambda text, speaker, file: make_audio(Path(file), 0.4),
    }
    exec(compile(code, page, "exec"), names)
    if "dubbed.mp4" in code:
        assert probe(files / "dubbed.mp4").frame_count == 10
    if "show(" in code:
        assert len(shown) == 10
