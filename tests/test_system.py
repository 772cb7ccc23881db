"""What differs between systems, imitated on this one: processes, files in use, consoles, names, command lines."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentsync import system
from latentsync.files import atomic_write
from latentsync.media.container import MediaError
from latentsync.media.video.mux import atomic_output
from latentsync.training.engine.checkpoints import discard
from scripts.command import run_command
from tests.support.windows import LINUX
from tests.web.support import LIMITS
from web.files import plain_stem, remove_own
from web.storage import StoredUploads
from web.store import JobStore

ENDED, FOREIGN, RUNNING = 11, 22, 33


class Kernel32:
    """The functions of the Windows API that are asked about processes."""

    class Function:
        def __init__(self, answer):
            self.answer = answer

        def __call__(self, *arguments):
            return self.answer(*arguments)

    def __init__(self) -> None:
        self.error, self.opened = 0, 0
        self.OpenProcess = self.Function(self.open)
        self.WaitForSingleObject = self.Function(
            lambda handle, milliseconds: system.WAIT_TIMEOUT if handle == RUNNING else 0
        )
        self.CloseHandle = self.Function(self.close)

    def open(self, rights: int, is_inherited: bool, pid: int) -> int | None:
        if pid not in (ENDED, RUNNING):
            self.error = system.ERROR_ACCESS_DENIED if pid == FOREIGN else 87
            return None
        self.opened += 1
        return pid

    def close(self, handle: int) -> int:
        self.opened -= 1
        return 1


def test_a_process_is_found_by_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert system.process_runs(os.getpid())
    child.wait()
    assert not system.process_runs(child.pid)


@pytest.mark.parametrize(("pid", "runs"), [(ENDED, False), (RUNNING, True), (FOREIGN, True), (44, False)])
def test_a_process_is_found_by_the_windows_api(pid: int, runs: bool) -> None:
    kernel = Kernel32()
    assert system.runs_on_windows(pid, kernel, lambda: kernel.error) == runs
    assert kernel.opened == 0, "every handle is closed"


@LINUX
def test_a_file_that_is_open_for_a_moment_is_replaced(
    tmp_path: Path, windows_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    path.write_text("old", encoding="utf-8")
    reader = path.open(encoding="utf-8")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            reader.close()

    monkeypatch.setattr(system.time, "sleep", pause)
    with atomic_write(path) as partial:
        partial.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new" and len(pauses) == 3


@LINUX
def test_a_file_that_stays_open_is_an_error_and_is_kept(
    tmp_path: Path, windows_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(system.time, "sleep", lambda seconds: None)
    with path.open(encoding="utf-8"), pytest.raises(PermissionError, match=r"out\.json"), atomic_write(path) as partial:
        partial.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


@LINUX
def test_a_video_that_a_player_has_open_is_named_in_one_sentence(
    tmp_path: Path, windows_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    monkeypatch.setattr(system.time, "sleep", lambda seconds: None)
    words = r"cannot write .*out\.mp4: The process cannot access .* Close it in other programs, or give another name\."
    with path.open("rb"), pytest.raises(MediaError, match=words), atomic_output(path) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"old"


@LINUX
def test_a_result_that_is_being_sent_stays_until_the_next_sweep(tmp_path: Path, windows_files: None) -> None:
    job = tmp_path / "job"
    job.mkdir()
    (job / "out.mp4").write_bytes(b"video")
    with (job / "out.mp4").open("rb"):
        remove_own(job)
        assert (job / "out.mp4").read_bytes() == b"video"
    remove_own(job)
    assert not job.exists()


@LINUX
def test_a_checkpoint_that_failed_and_is_still_open_is_deleted_the_next_time(
    tmp_path: Path, windows_files: None
) -> None:
    folder = tmp_path / "step-00000002.partial"
    folder.mkdir()
    with (folder / "state.pt.partial").open("wb"):  # as PyTorch holds it while its error is handled
        discard(folder)
    discard(folder)
    assert not folder.exists()


@LINUX
def test_an_aborted_upload_that_is_still_open_is_deleted_the_next_time(tmp_path: Path, windows_files: None) -> None:
    uploads, upload = StoredUploads(JobStore(tmp_path, LIMITS)), tmp_path / "tmpabc"
    with upload.open("wb"), uploads.receiving("somebody", 10):
        pass
    uploads.remove_aborted()
    assert not upload.exists()


@LINUX
def test_a_file_is_flushed_where_that_needs_the_right_to_write(tmp_path: Path, windows_files: None) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    system.flush_to_disk(path)
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_command_prints_what_the_console_lacks(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert run_command("test", lambda: print("视频.mp4")) == 0
    console.flush()
    assert console.buffer.getvalue().split() == [b"\\u89c6\\u9891.mp4"]


@pytest.mark.parametrize("name", ["con.mp4", "NUL.wav", "com1.mov", "aux"])
def test_an_upload_does_not_get_the_name_of_a_device(name: str) -> None:
    assert not system.RESERVED.fullmatch(plain_stem(name)) and plain_stem(name).startswith("_")
    assert plain_stem("contact.mp4") == "contact" and plain_stem("") == "video"


def test_a_command_line_keeps_the_folders_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    text = r'"C:\Program Files\tool.exe" --in {video} C:\out'
    monkeypatch.setattr(system, "ON_WINDOWS", True)
    assert system.split_command(text) == [r"C:\Program Files\tool.exe", "--in", "{video}", r"C:\out"]
    monkeypatch.setattr(system, "ON_WINDOWS", False)
    assert system.split_command(r"a\ b 'c d'") == ["a b", "c d"]
