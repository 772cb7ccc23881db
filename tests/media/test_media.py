"""Written files are read back with the same frames, times, sizes, colours and audio; failures leave no files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import frames_at, read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.media_clips import MILLISECONDS, grey, numbered, patches, store, tone, write


@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30_000, 1001)])
def test_every_frame_is_read_back_in_order_and_at_its_time(tmp_path: Path, count: int, fps: Fraction) -> None:
    path = write(tmp_path / "v.mp4", numbered(count), fps)
    info, back = probe(path), list(read_frames(path))
    assert (info.frame_count, info.fps, info.duration_sec) == (count, fps, pytest.approx(count / fps, abs=1e-3))
    assert [grey(frame.frame) for frame in back] == pytest.approx([grey(frame) for frame in numbered(count)], abs=2)
    assert [frame.time_sec for frame in back] == pytest.approx([float(k / fps) for k in range(count)], abs=1e-3)


@pytest.mark.parametrize("size", [(64, 96), (63, 96), (64, 95), (33, 17)])
def test_size_is_exact_and_flat_colours_are_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    image = patches(*size)
    info = probe(path := write(tmp_path / "v.mp4", [image] * 3))
    back = next(read_frames(path)).frame
    shift = np.abs(back.astype(int) - image)[8::16, 8::16]
    assert (info.height, info.width) == back.shape[:2] == size
    assert back.flags.c_contiguous and back.dtype == np.uint8
    assert shift.mean() < 2 and shift.max() <= 6


def test_colours_are_tagged_and_have_no_bias(tmp_path: Path) -> None:
    image = patches(256, 256)
    path = write(tmp_path / "v.mp4", [image] * 2)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    difference = next(read_frames(path)).frame.astype(int) - image
    assert np.abs(difference[8::16, 8::16].mean(axis=(0, 1))).max() < 0.5


def test_the_matrix_of_the_tags_is_used(tmp_path: Path) -> None:
    saturated = np.zeros((32, 48, 3), dtype=np.uint8)
    saturated[..., 0] = 200
    stored = av.VideoFrame.from_ndarray(saturated, format="rgb24").reformat(format="yuv444p", dst_colorspace=1)
    shown = {}
    for matrix in (1, 6):  # BT.709, SMPTE 170M
        with av.open(str(tmp_path / f"{matrix}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
            stream.codec_context.colorspace = matrix
            container.mux(stream.encode(stored) + stream.encode(None))
        shown[matrix] = next(read_frames(tmp_path / f"{matrix}.mp4")).frame[16, 24].astype(int)
    assert np.abs(shown[1] - [200, 0, 0]).max() <= 4
    assert np.abs(shown[6] - [200, 0, 0]).max() > 10


@pytest.mark.parametrize("name", ["a b.mp4", "-dash.mp4", "Füße 唇 'q\" %03d.mp4", "c:d.mp4", "x.MP4"])
def test_any_file_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav("s " + name, tone(0.2))
    write(Path(name), numbered(3), audio=AudioSource("s " + name))
    assert probe(name).frame_count == len(list(read_frames(name))) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, "s " + name])


@pytest.mark.parametrize("ending", ["mkv", "ts", "avi"])
def test_frame_count_without_an_index_is_exact(tmp_path: Path, ending: str) -> None:
    path = store(tmp_path / f"v.{ending}", numbered(31))
    assert probe(path).frame_count == len(list(read_frames(path))) == 31


def test_frame_count_respects_an_edit_list(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", numbered(20))
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        stream = cut.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts -= 5 * 400
                packet.dts -= 5 * 400
                packet.stream = stream
                cut.mux(packet)
    shown = [grey(frame.frame) for frame in read_frames(tmp_path / "cut.mp4")]
    assert probe(tmp_path / "cut.mp4").frame_count == len(shown) == 15
    assert shown[0] == pytest.approx(grey(numbered(6)[5]), abs=2)


def test_variable_rate_keeps_its_time_stamps(tmp_path: Path) -> None:
    times_ms = [0, 30, 100, 110, 300, 340]
    path = store(tmp_path / "v.mkv", numbered(6), times_ms, MILLISECONDS, fps=Fraction(25))
    assert [frame.time_sec for frame in read_frames(path)] == pytest.approx([t / 1000 for t in times_ms], abs=1e-6)


def test_a_constant_rate_shows_the_nearest_frame(tmp_path: Path) -> None:
    times_ms = [0, 30, 100, 110, 300, 340]
    path = store(tmp_path / "v.mkv", numbered(6), times_ms, MILLISECONDS, fps=Fraction(25))
    greys = [grey(frame) for frame in numbered(len(times_ms))]
    shown = list(frames_at(path, 25))
    nearest = [min(range(6), key=lambda i: abs(times_ms[i] - 40 * k)) for k in range(len(shown))]
    assert [grey(frame.frame) for frame in shown] == pytest.approx([greys[i] for i in nearest], abs=2)
    assert [frame.time_sec for frame in shown] == pytest.approx([k / 25 for k in range(len(shown))])


@pytest.mark.parametrize(
    ("fps", "count", "expected"), [(25, 50, 50), (50, 50, 25), (Fraction(30_000, 1001), 45, 38), (12.5, 9, 18)]
)
def test_a_constant_rate_keeps_the_duration(tmp_path: Path, fps: float | Fraction, count: int, expected: int) -> None:
    path = write(tmp_path / "v.mp4", numbered(count), fps)
    assert len(list(frames_at(path, 25))) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_picture_is_mirrored(tmp_path: Path, axis: int) -> None:
    """A vertical flip has a display matrix although it is not a rotation."""
    path = write(tmp_path / "v.mp4", [patches()])
    turn_track(path, (-1, 0, 0, 1) if axis else (1, 0, 0, -1))
    back = next(read_frames(path)).frame
    assert np.abs(back.astype(int) - np.flip(patches(), axis))[8::16, 8::16].mean() < 2


@pytest.mark.parametrize(("matrix", "turn"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_metadata_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int], turn: int) -> None:
    path = write(tmp_path / "v.mp4", [patches()])
    turn_track(path, matrix)
    info, back = probe(path), next(read_frames(path)).frame
    upright = np.rot90(patches(), turn)
    assert info.rotation == turn * 90 and (info.height, info.width) == back.shape[:2] == upright.shape[:2]
    assert np.abs(back.astype(int) - upright)[8::16, 8::16].mean() < 2


def turn_track(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Overwrite the display matrix a b c d of the first track header (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 2 * 4 + 4 * 2
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[start + offset : start + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(content))


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"older")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(48, 32, 25)) as writer:
        writer.write(numbered(1)[0])
        raise RuntimeError
    with pytest.raises(MediaError, match="no frame"), VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(48, 32, 25)):
        pass
    with (
        pytest.raises(MediaError, match="shape"),
        VideoWriter(tmp_path / "v.mp4", VideoFormat.constant(48, 32, 25)) as writer,
    ):
        writer.write(patches())
    with pytest.raises(MediaError, match=r"none\.wav"):
        write(tmp_path / "v.mp4", numbered(2), audio=AudioSource(tmp_path / "none.wav"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["v.mp4"]
    assert (tmp_path / "v.mp4").read_bytes() == b"older"


@pytest.mark.parametrize("name", ["v.avi", "v", "folder.mp4", "file/v.mp4"])
def test_outputs_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="cannot write"):
        write(tmp_path / name, numbered(1))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "git lfs pull"),
        (b"hello, this is a note\n", "text file"),
        (bytes(range(256)) * 8, "complete"),
    ],
)
def test_unreadable_inputs_have_a_reason(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "input.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (probe, read_audio, lambda p: next(read_frames(p)), lambda p: next(frames_at(p, 25))):
        with pytest.raises(MediaError, match=why) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_missing_streams_are_named(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(0.1))
    with pytest.raises(MediaError, match="no video stream"):
        probe(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="no audio stream"):
        read_audio(write(tmp_path / "v.mp4", numbered(2)))
    with pytest.raises(MediaError, match="folder"):
        probe(tmp_path)


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    content = write(tmp_path / "v.mp4", list(noise)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=r"cut\.mp4 is cut short"):
        probe(tmp_path / "cut.mp4")
