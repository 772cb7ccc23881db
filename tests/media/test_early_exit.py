"""Readers that are closed early, in any way and at any time, neither hang nor crash; EARLY_EXITS=200 sets the number of tries."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.leave_early import WAYS
from tests.support.media_clips import moving, store

EXITS = int(os.environ.get("EARLY_EXITS", "4"))  # of each way, with each kind of messages
ROOT = Path(__file__).resolve().parents[2]
HANGS_SEC = 30 + 2 * EXITS
CODECS = {
    "h264.mp4": ("libx264", {"preset": "ultrafast", "bf": "2"}),
    "hevc.mp4": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=error"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.avi": ("mpeg4", {}),
}
AGAIN_SEC = 10
ONCE_A_PROCESS = {"open at exit", "interrupt"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One film of four codecs, large enough that decoders are still running when they are closed."""
    folder, frames = tmp_path_factory.mktemp("early"), moving(24, 360, 640)
    stored = [store(folder / name, frames, codec=codec, options=options) for name, (codec, options) in CODECS.items()]
    return [str(path) for path in stored]


def start(way: str, count: int, messages: str, paths: list[str]) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "tests.support.leave_early",
        way,
        str(count),
        messages,
        *paths,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(program: subprocess.Popen[str]) -> None:
    """Wait for a program, which must end by itself and well."""
    try:
        output, errors = program.communicate(timeout=HANGS_SEC)
    finally:
        program.kill()
    assert program.returncode == 0, (program.returncode, errors[-3000:])
    assert output.split()[-1:] == ["left"]


@pytest.mark.parametrize("messages", ["ignored", "python"])
@pytest.mark.parametrize("way", [way for way in WAYS if way not in ONCE_A_PROCESS])
def test_a_reader_may_be_closed_early(way: str, messages: str, clips: list[str]) -> None:
    ended(start(way, EXITS, messages, clips))


@pytest.mark.parametrize("messages", ["ignored", "python"])
def test_the_interpreter_may_end_while_readers_are_open(messages: str, clips: list[str]) -> None:
    for number in range(max(1, EXITS // 4)):
        ended(start("open at exit", 4, messages, clips[number % 4 :] + clips[: number % 4]))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("messages", ["ignored", "python"])
def test_reading_may_be_interrupted_at_any_moment(messages: str, clips: list[str]) -> None:
    moments_sec = [0.37 * number % 0.5 for number in range(max(1, EXITS // 2))]
    for number, moment_sec in enumerate(moments_sec):
        program = start("interrupt", 1, messages, [clips[number % len(clips)]])
        assert program.stdout is not None and program.stdout.readline() == "reading\n"
        time.sleep(moment_sec)
        program.send_signal(signal.SIGINT)
        if messages == "python":  # PyAV ignores a Ctrl-C that arrives while it passes a message to Python: send another
            with suppress(subprocess.TimeoutExpired):
                program.wait(AGAIN_SEC)
            program.send_signal(signal.SIGINT)
        ended(program)
