"""Files with several tracks: the default one is used unless another is selected; covers and thumbnails are not numbered."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from latentsync.media.container import ChosenTracks, MediaError, PathLike, default_track
from latentsync.media.probe import probe, sound_format
from latentsync.media.sound.read import mono_pieces, mono_span, read_audio
from latentsync.media.video.read import read_frames
from latentsync.media.video.strict_read import has_streams
from tests.support.media_clips import grey, store_sound, tone

RATE_HZ = 48_000
NONE, DEFAULT = Disposition(0), Disposition.default


@dataclass(frozen=True)
class Pictures:
    """A uniform grey video track."""

    level: int
    disposition: Disposition = NONE
    codec: str = "libx264"
    frames: int = 8
    timecode: str = ""


@dataclass(frozen=True)
class Tone:
    """An audio track of one tone."""

    hz: int
    disposition: Disposition = NONE
    codec: str = "aac"
    layout: str = "mono"
    language: str = ""


def store_tracks(path: Path, tracks: Sequence[Pictures | Tone]) -> Path:
    with av.open(str(path), "w") as container:
        streams = []
        for track in tracks:
            if isinstance(track, Tone):
                stream = container.add_stream(track.codec, rate=RATE_HZ)
                stream.codec_context.layout = track.layout
                stream.metadata.update({"language": track.language} if track.language else {})
            else:
                stream = container.add_stream(track.codec, rate=25)
                stream.width, stream.height = 64, 48
                stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(track.codec, "yuv420p")
                stream.metadata.update({"timecode": track.timecode} if track.timecode else {})
            stream.disposition = track.disposition
            streams.append(stream)
        packets = [packet for stream, track in zip(streams, tracks, strict=True) for packet in encoded(stream, track)]
        for packet in packets:
            container.mux(packet)
    return path


def encoded(stream: av.VideoStream | av.AudioStream, track: Pictures | Tone) -> list[av.Packet]:
    packets = []
    if isinstance(track, Tone):
        channels = len(stream.codec_context.layout.channels)
        wave = 0.25 * np.sin(2 * np.pi * track.hz * np.arange(RATE_HZ) / RATE_HZ)
        data = np.repeat(wave[None], channels, 0)
        if stream.codec_context.format.name == "s16":
            data = np.round(data.T * 32767).astype(np.int16).reshape(1, -1)
        form = stream.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(data, np.int16 if form == "s16" else np.float32), format=form, layout=track.layout
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        packets += stream.encode(frame)
    else:
        for number in range(track.frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), track.level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += stream.encode(frame)
    return packets + stream.encode(None)


def pitch_hz(waveform: np.ndarray, rate_hz: int = 16_000) -> int:
    spectrum = np.abs(np.fft.rfft(waveform[: rate_hz // 2]))
    return int(np.argmax(spectrum)) * 2


def tone_hz(path: PathLike) -> int:
    """The frequency of a file's tone, which is the same for every reader."""
    whole = read_audio(path)
    pieces = np.concatenate(list(mono_pieces(path)))
    assert {pitch_hz(whole), pitch_hz(pieces), pitch_hz(mono_span(path, 0.1, 8000))} == {pitch_hz(whole)}
    return pitch_hz(whole)


def seen(path: PathLike) -> int:
    return grey(next(iter(read_frames(path))).frame)


@pytest.mark.parametrize("ending", ["mkv", "mov", "mp4", "ts"])
@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_or_the_selected_audio_track_is_read(tmp_path: Path, ending: str, default: int) -> None:
    tones = [300, 600, 900]
    tracks = [Tone(hz, DEFAULT if place == default else NONE) for place, hz in enumerate(tones)]
    path = store_tracks(tmp_path / f"v.{ending}", [Pictures(90), *tracks])
    marked = 0 if ending == "ts" else default  # MPEG-TS marks none
    assert abs(tone_hz(path) - tones[marked]) <= 4
    assert (default_track(path, "audio") or "").startswith(f"{marked + 1} of 3 (aac, mono")
    for number, hz in enumerate(tones, 1):
        chosen = ChosenTracks(path, audio=number)
        assert abs(tone_hz(chosen) - hz) <= 4
        assert default_track(chosen, "audio") is None


@pytest.mark.parametrize("ending", ["mkv", "mov", "mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_or_the_selected_video_track_is_read(tmp_path: Path, ending: str, default: int) -> None:
    tracks = [Pictures(level, DEFAULT if place == default else NONE) for place, level in enumerate([60, 180])]
    path = store_tracks(tmp_path / f"v.{ending}", [*tracks, Tone(300)])
    assert abs(seen(path) - [60, 180][default]) <= 2
    for number, level in enumerate([60, 180], 1):  # one after the other: the cache distinguishes tracks
        assert abs(seen(ChosenTracks(path, video=number)) - level) <= 2
    assert abs(seen(path) - [60, 180][default]) <= 2
    assert (default_track(path, "video") or "").startswith(f"{default + 1} of 2 (h264, 64x48")


COVERS = {
    "a preview": ("mkv", Pictures(200, Disposition.attached_pic, "mjpeg", 1)),
    "a cover before": ("mp4", Pictures(200, Disposition.attached_pic, "mjpeg", 1)),
    "a thumbnail": ("mp4", Pictures(200, DEFAULT, "mjpeg", 1)),
    "a still": ("mov", Pictures(200, DEFAULT, "png", 1)),
}


@pytest.mark.parametrize("kind", COVERS)
def test_covers_and_thumbnails_are_not_numbered(tmp_path: Path, kind: str) -> None:
    ending, cover = COVERS[kind]
    path = store_tracks(tmp_path / f"v.{ending}", [cover, Pictures(60), Tone(300)])
    assert abs(seen(path) - 60) <= 2
    assert abs(seen(ChosenTracks(path, video=1)) - 60) <= 2
    assert default_track(path, "video") is None
    with pytest.raises(MediaError, match=r"no video track 2. It has 1 \(h264, 64x48"):
        probe(ChosenTracks(path, video=2))


def test_a_single_picture_alone_is_a_track(tmp_path: Path) -> None:
    path = store_tracks(tmp_path / "v.mp4", [Pictures(200, DEFAULT, "mjpeg", 1)])
    assert probe(path).frame_count == 1


def test_a_timecode_track_is_no_video_track(tmp_path: Path) -> None:
    path = store_tracks(tmp_path / "v.mov", [Pictures(60, timecode="01:00:00:00"), Tone(300)])
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "data"]
    assert probe(path).frame_count == 8 and default_track(path, "video") is None
    assert has_streams(path) == (True, True)


def test_the_error_for_a_missing_track_lists_the_tracks(tmp_path: Path) -> None:
    tracks = [Tone(300, NONE, "aac", "stereo", "eng"), Tone(900, DEFAULT, "flac", "5.1", "deu")]
    path = store_tracks(tmp_path / "v.mkv", tracks)
    for number in (0, 3, -1):
        with pytest.raises(MediaError) as refusal:
            read_audio(ChosenTracks(path, audio=number))
        assert str(refusal.value) == (
            f"{path} has no audio track {number}. It has 1 (aac, stereo, eng), 2 (flac, 5.1, deu, default):"
            " choose one of these."
        )
    assert sound_format(path) == (RATE_HZ, 6) and sound_format(ChosenTracks(path, audio=1)) == (RATE_HZ, 2)


@pytest.mark.parametrize(("layout", "name"), [("mono", "mono"), ("stereo", "stereo"), ("5.1", "6 channels")])
def test_audio_without_a_layout_has_a_usual_one(tmp_path: Path, layout: str, name: str) -> None:
    path = store_tracks(tmp_path / "v.mkv", [Tone(300, DEFAULT, "pcm_s16le", layout), Tone(900)])
    assert default_track(path, "audio") == f"1 of 2 (pcm_s16le, {name}, default)"


def test_tracks_that_cannot_be_decoded_are_not_used(tmp_path: Path) -> None:
    """A phone's spatial audio is the default beside the plain one, but its codec has no decoder."""
    path = store_tracks(tmp_path / "v.mkv", [Tone(300), Tone(900, DEFAULT, "flac")])
    content = path.read_bytes()
    assert content.count(b"A_FLAC") == 1
    path.write_bytes(content.replace(b"A_FLAC", b"A_SPAT"))
    assert abs(tone_hz(path) - 300) <= 4
    assert default_track(path, "audio") == "1 of 2 (aac, mono)"
    with pytest.raises(MediaError, match="its codec is unknown"):
        read_audio(ChosenTracks(path, audio=2))


@pytest.mark.parametrize("rate_hz", [1, 100, 3_999, 800_000, 4_000_000_000])
def test_an_implausible_sample_rate_is_refused_before_decoding(
    tmp_path: Path, rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store_sound(tmp_path / "a.wav", tone(0.2), 16_000, "pcm_s16le")
    content = bytearray(path.read_bytes())
    content[24:28] = rate_hz.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    monkeypatch.delattr("latentsync.media.sound.downmix.AudioResampler")
    for read in (read_audio, lambda path: list(mono_pieces(path)), lambda path: mono_span(path, 0.0, 100)):
        with pytest.raises(MediaError, match="out of range|rate or channels|Is it a complete"):
            read(path)


@pytest.mark.parametrize("rate_hz", [4_000, 8_000, 192_000, 768_000])
def test_every_plausible_sample_rate_is_read(tmp_path: Path, rate_hz: int) -> None:
    path = store_sound(tmp_path / "a.wav", tone(0.5, rate_hz), rate_hz, "pcm_s16le")
    assert abs(len(read_audio(path)) - 8000) <= 8
