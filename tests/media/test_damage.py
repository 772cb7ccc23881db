"""Damaged, unsupported and hostile files: a MediaError or a correct result; no crash, no hang, no other file opened."""

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.media.container import MediaError
from latentsync.media.probe import made_here, probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.join import join
from latentsync.media.video.read import frame_times, frames_at, read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.bombs import MAX_BYTES, SOUNDS, VIDEOS
from tests.support.media_clips import moving, numbered, store, store_sound, tone, write

SEEDS = int(os.environ.get("MEDIA_FUZZ_SEEDS", "60"))
FIRST_SEED = int(os.environ.get("MEDIA_FUZZ_FIRST", "0"))
ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT_SEC = 60  # for one damaged file; far more than any needs


def picture() -> bytes:
    """A PNG file."""
    return cv2.imencode(".png", numbered(1)[0])[1].tobytes()


@pytest.fixture(scope="module")
def sane(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One undamaged file of each kind."""
    folder = tmp_path_factory.mktemp("sane")
    write_wav(folder / "a.wav", tone(0.6))
    frames = moving(12, 32, 48)
    (folder / "i.png").write_bytes(picture())
    return [
        write(folder / "v.mp4", frames, audio=AudioSource(folder / "a.wav")),
        write(folder / "v.mkv", frames, audio=AudioSource(folder / "a.wav")),
        write(folder / "v.mov", frames, audio=AudioSource(folder / "a.wav")),
        store(folder / "v.ts", frames),
        store(folder / "v.avi", frames, codec="mpeg4", b_frames=2),
        store(folder / "v.webm", frames, codec="libvpx-vp9"),
        store(folder / "v.gif", frames, codec="gif", pixel_format="rgb8"),
        store_sound(folder / "a.m4a", tone(0.6, 44_100), 44_100, "aac"),
        store_sound(folder / "a.mp3", tone(0.6, 44_100), 44_100, "libmp3lame"),
        folder / "a.wav",
        folder / "i.png",
    ]


MEASURE = """
import os, sys
from pathlib import Path
from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio

def peak_mb(read, path):
    '''Peak memory of a process that reads a file, in MB.'''
    child = os.fork()
    if not child:
        try:
            read(path)
        except ValueError as error:
            print(path.name, repr(str(error)), file=sys.stderr, flush=True)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    return usage.ru_maxrss / 1000 if status == 0 else float("inf")

usual = peak_mb(str, Path())
for path in map(Path, sys.argv[1:]):
    print(path.name, peak_mb(probe if path.suffix == ".video" else read_audio, path) - usual, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_small_files_that_state_much_take_little_memory(tmp_path: Path) -> None:
    paths = []
    for suffix, bombs in ((".audio", SOUNDS), (".video", VIDEOS)):
        for name, make in bombs.items():
            paths.append(tmp_path / f"{name.replace(' ', '_')}{suffix}")
            paths[-1].write_bytes(make())
            assert paths[-1].stat().st_size <= MAX_BYTES
    assert len(paths) >= 30
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peaks = dict(line.split() for line in done.stdout.splitlines())
    assert {name: peak for name, peak in peaks.items() if float(peak) > 200} == {} and len(peaks) == len(paths)
    refused = [line for line in done.stderr.splitlines() if line.startswith("a")]
    assert all(line.rstrip("'\"").endswith((".", "?")) for line in refused)
    for name, reason in (
        ("FLAC_file_of_many", "not plausible"),
        ("PNG_of_16", "too large"),
        ("WAV_of_100_Hz", "out of range"),
    ):
        assert any(name in line and reason in line for line in refused), name


def damaged(content: bytes, seed: int) -> bytes:
    """Bytes cut off, flipped, overwritten, moved or doubled."""
    rng = np.random.default_rng(seed)
    data = np.frombuffer(content, dtype=np.uint8).copy()
    where = int(rng.integers(0, len(data)))
    match seed % 6:
        case 0:
            return data[:where].tobytes()
        case 1:
            data[rng.integers(0, len(data), 1 + seed % 40)] ^= np.uint8(1) << rng.integers(0, 8, dtype=np.uint8)
        case 2:
            data[where : where + 64] = rng.integers(0, 256, len(data[where : where + 64]), dtype=np.uint8)
        case 3:
            head = min(len(data), 1200)  # mostly in headers
            data[rng.integers(0, head, 1 + seed % 8)] = rng.integers(0, 256, dtype=np.uint8)
        case 4:
            return np.concatenate([data[:where], data[where + int(rng.integers(1, 200)) :]]).tobytes()
        case 5:
            return np.concatenate([data[:where], data[where // 2 :]]).tobytes()
    return data.tobytes()


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_damaged_files_are_read_or_refused(sane: list[Path], tmp_path: Path, seed: int) -> None:
    original = sane[seed % len(sane)]
    path = tmp_path / f"damaged{original.suffix}"
    path.write_bytes(damaged(original.read_bytes(), seed // len(sane) * 7 + seed))
    faulthandler.dump_traceback_later(TIME_LIMIT_SEC, exit=True)
    try:
        outcomes = [attempt(read, path) for read in READS]
    finally:
        faulthandler.cancel_dump_traceback_later()
    for outcome in outcomes:
        assert outcome is None or (str(path) in outcome and outcome.endswith((".", "?"))), outcome
    assert sorted(entry.name for entry in tmp_path.iterdir()) in ([path.name], [path.name, "out.mp4"])


def attempt(read: object, path: Path) -> str | None:
    """None on success, else the message of the MediaError; any other error fails the test."""
    try:
        read(path)  # type: ignore[operator]
    except MediaError as error:
        return str(error)
    return None


def read_all(path: Path) -> None:
    count = sum(1 for _ in read_frames(path))
    assert count == probe(path).frame_count == len(frame_times(path)) - 1


def on_clock(path: Path) -> None:
    for _, _shown in zip(range(500), frames_at(path, 25), strict=False):
        pass


def use_sound(path: Path) -> None:
    with VideoWriter(path.parent / "out.mp4", VideoFormat.constant(48, 32, 25), AudioSource(path)) as writer:
        for frame in numbered(5):
            writer.write(frame)


READS = (probe, read_all, on_clock, read_audio, use_sound, made_here)
PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:{secret}\n#EXT-X-ENDLIST\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:{secret}\n#EXT-X-ENDLIST\n",
    "net.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{secret}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "dash.mpd": '<?xml version="1.0"?><MPD><Period><AdaptationSet><BaseURL>{secret}</BaseURL></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize("disguise", [b"", "ü\0".encode(), b"\xef\xbb\xbf"], ids=["plain", "binary tail", "mark"])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_open_nothing_else(sane: list[Path], tmp_path: Path, name: str, disguise: bytes) -> None:
    text = PLAYLISTS[name].format(secret=sane[3]).encode()
    content = disguise + text if disguise == b"\xef\xbb\xbf" else text + disguise
    (tmp_path / name).write_bytes(content)
    for read in (probe, read_audio, read_all):
        assert attempt(read, tmp_path / name) is not None


@pytest.mark.parametrize(
    "name", ["%03d.png", "-i.mp4", "a'b\"c d.mp4", "c:d%20.mkv", "Füße 唇.mov", "two\nlines.mp4", "[x]*.mp4"]
)
def test_hostile_file_names_are_plain_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound = store_sound(Path("s " + Path(name).stem + ".m4a"), tone(0.3, 44_100), 44_100, "aac")
    if name.endswith(".png"):
        (tmp_path / name).write_bytes(picture())
    else:
        write(Path(name), numbered(3), audio=AudioSource(sound))
    assert probe(name).frame_count == len(list(read_frames(name))) == 1 + 2 * (not name.endswith(".png"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, sound.name])


def test_special_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, why in (
        (tmp_path / "pipe.mp4", "regular"),
        (tmp_path, "folder"),
        (tmp_path / ("x" * 300), "cannot read"),
    ):
        with pytest.raises(MediaError, match=why):
            probe(path)
    with pytest.raises(MediaError, match="cannot read"):
        probe("a\0b.mp4")


def test_a_missing_frame_is_an_error_and_not_another_picture(tmp_path: Path) -> None:
    path = store(tmp_path / "v.mkv", moving(30), codec="ffv1", options={"slicecrc": "1"}, gop=1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"at 0\.\d+ s"):
        list(read_frames(path))


WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.media_clips import moving, write
from latentsync.media.container import MediaError
from latentsync.media.video.join import join
folder, limit = Path({folder!r}), int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if sys.argv[2] == "write":
        write(folder / "part2.mp4", moving(60, 96, 96))
    else:
        join([folder / "part0.mp4", folder / "part1.mp4"], folder / "joined.mp4")
except MediaError as error:
    print("SENTENCE", error)
else:
    print("WRITTEN")
"""


@pytest.mark.slow
@pytest.mark.parametrize("action", ["write", "join"])
def test_a_full_disk_loses_only_the_file_being_written(tmp_path: Path, action: str) -> None:
    parts = [write(tmp_path / f"part{k}.mp4", moving(20, 96, 96)) for k in range(2)]
    if action == "join":
        join(parts, tmp_path / "whole.mp4")
    else:
        write(tmp_path / "whole.mp4", moving(60, 96, 96))
    size = (tmp_path / "whole.mp4").stat().st_size
    (tmp_path / "whole.mp4").unlink()
    script = WRITE_TOO_MUCH.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    for limit in (0, 40, size // 4, size - 1000, size - 1):
        command = [sys.executable, "-c", script, str(limit), action]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0 and "SENTENCE cannot write" in result.stdout, result
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["part0.mp4", "part1.mp4"]
    assert [probe(part).frame_count for part in parts] == [20, 20]
