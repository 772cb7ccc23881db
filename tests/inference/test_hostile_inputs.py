"""Damaged, disguised and oddly named inputs through the command line: an output or one error sentence; no other file is touched.

HOSTILE_SEEDS=500 sets the number of inputs.
"""

import faulthandler
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from scripts.inference import main
from tests.media.test_damage import damaged
from tests.support.media_clips import store, store_sound, tone
from tests.support.tiny import make_audio, make_video, scene
from tests.support.whole_runs import command, contents, tiny_pipeline, use_tiny_models

SEEDS = int(os.environ.get("HOSTILE_SEEDS", "40"))
FIRST_SEED = int(os.environ.get("HOSTILE_FIRST", "0"))
TIME_LIMIT_SEC = 120  # far more than any needs, also on a busy machine
STEMS = (
    "plain",
    "two words",
    "-o",
    "--help",
    'it\'s "quoted"',
    "Füße 唇 🙂",
    "two\nlines",
    "100%d %03d",
    "[x]*?{a,b}",
    "$(touch owned);`touch owned`",
    "c:d|e<f>",
    "~",
    "file:x",
    ".hidden",
    "n" * 200,
    "ends in a dot.",
)


@pytest.fixture(scope="module")
def sane(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Undamaged videos and pictures, and audio files."""
    folder = tmp_path_factory.mktemp("sane")
    frames = [scene(index) for index in range(8)]
    picture = cv2.imencode(".png", frames[0][..., ::-1])[1].tobytes()
    (folder / "i.png").write_bytes(picture)
    (folder / "i.jpg").write_bytes(cv2.imencode(".jpg", frames[0][..., ::-1])[1].tobytes())
    videos = [
        make_video(folder / "v.mp4", 8),
        make_video(folder / "v.mkv", 8, fps=30),
        make_video(folder / "v.mov", 8, fps=50),
        store(folder / "v.avi", frames, codec="mpeg4", b_frames=2, sound=True),
        store(folder / "v.ts", frames, sound=True),
        store(folder / "v.gif", frames, codec="gif", pixel_format="rgb8"),
        store(folder / "v.webm", frames, [0, 40, 90, 100, 180, 200, 300, 330], fps=None, codec="libvpx-vp9"),
        folder / "i.png",
        folder / "i.jpg",
    ]
    sounds = [
        make_audio(folder / "a.wav", 0.3),
        store_sound(folder / "a.m4a", tone(0.3, 44_100), 44_100, "aac"),
        store_sound(folder / "a.mp3", tone(0.3, 44_100), 44_100, "libmp3lame"),
        store_sound(folder / "a.flac", tone(0.3, 44_100), 44_100, "flac"),
        folder / "v.ts",
    ]
    return videos, sounds


def disguised(seed: int, path: Path, other: Path) -> None:
    """Put a file of the wrong kind in place of a media file."""
    rng = np.random.default_rng(seed)
    match seed % 7:
        case 0:
            path.write_bytes(b"")
        case 1:
            path.write_text("#EXTM3U\n#EXTINF:9,\nfile:/etc/hostname\n")
        case 2:
            path.write_bytes(rng.integers(0, 256, 5000, dtype=np.uint8).tobytes())
        case 3:
            path.mkdir()
        case 4:
            shutil.copyfile(other, path)  # a sound for a video and the other way round
        case 5:
            path.write_bytes(b"PK\3\4" + bytes(600))
        case 6:
            path.symlink_to(path.with_name("nowhere"))


def lay_out(seed: int, folder: Path, sane: tuple[list[Path], list[Path]]) -> tuple[Path, Path, str]:
    """Two inputs, one of them damaged, disguised or oddly named, and the name of the output."""
    rng = np.random.default_rng(seed)
    good = [kind[int(rng.integers(len(kind)))] for kind in sane]
    stems = [STEMS[int(index)] for index in rng.integers(0, len(STEMS), 3)]
    paths = [folder / f"{role} {stem}"[-210:] for role, stem in zip("va", stems, strict=False)]
    paths = [path.with_name(path.name[2:] + original.suffix) for path, original in zip(paths, good, strict=True)]
    if paths[0] == paths[1]:
        paths[1] = paths[1].with_name("second " + paths[1].name[-200:])
    victim = int(rng.integers(2))
    for role, (path, original) in enumerate(zip(paths, good, strict=True)):
        if role == victim and seed % 8 == 7:
            disguised(seed // 8, path, good[1 - role])
        elif role == victim and seed % 8 != 6:  # 6: only the name is odd
            path.write_bytes(damaged(original.read_bytes(), int(rng.integers(6000))))
        else:
            shutil.copyfile(original, path)
    return paths[0], paths[1], f"o {stems[2]}" + (".mp4", ".mov", ".mkv")[seed % 3]


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_hostile_inputs_give_an_output_or_an_error_sentence(
    tmp_path: Path,
    sane: tuple[list[Path], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seed: int,
) -> None:
    use_tiny_models(monkeypatch, PIPELINE)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    video, audio, name = lay_out(seed, tmp_path / "in", sane)
    relative = seed % 2  # as a user who stands beside the files would name them
    given = [Path(path.name) if relative else path for path in (video, audio)]
    before = contents(tmp_path / "in")
    faulthandler.dump_traceback_later(TIME_LIMIT_SEC, exit=True)
    try:
        code = main(command(*given, tmp_path / "out" / name))  # type: ignore[arg-type]
    finally:
        faulthandler.cancel_dump_traceback_later()
    error = capfd.readouterr().err
    assert contents(tmp_path / "in") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    left = {path.name for path in (tmp_path / "out").iterdir()}
    report = Path(name).with_suffix(".report.json").name
    if code == 0:
        assert left == {name, report} and probe(tmp_path / "out" / name).frame_count > 0
        return
    assert code == 2 and "Traceback" not in error
    sentences = [line for line in error.replace("two\nlines", "two lines").splitlines() if "inference: " in line]
    assert len(sentences) == 1 and sentences[0].endswith((".", "?")), error
    assert left <= {f"{name}.job"}, left
    check_resumable(tmp_path / "out")


def check_resumable(folder: Path) -> None:
    """Files that a failed job has left under their final names are complete."""
    assert not list(folder.rglob("*.partial"))
    for part in folder.rglob("part_*.mp4"):
        assert probe(part).frame_count > 0


PIPELINE = tiny_pipeline()


@pytest.mark.slow
def test_odd_names_are_accepted(
    tmp_path: Path,
    sane: tuple[list[Path], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    use_tiny_models(monkeypatch, PIPELINE)
    for index, stem in enumerate(STEMS):
        folder = tmp_path / str(index)
        folder.mkdir()
        monkeypatch.chdir(folder)
        video, audio = Path(f"{stem}.mp4"), Path(f"{stem}.wav")
        shutil.copyfile(sane[0][0], video)
        shutil.copyfile(sane[1][0], audio)
        assert main(command(video, audio, Path(f"o{stem}.mkv"))) == 0, (stem, capfd.readouterr().err)
        names = {video.name, audio.name, f"o{stem}.mkv", Path(f"o{stem}.mkv").with_suffix(".report.json").name}
        assert {path.name for path in folder.iterdir()} == names
    with pytest.raises(MediaError):
        probe(tmp_path / "0" / "owned")
