"""A lip-sync job: two inputs, an output and options, checked before any model runs."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.speech_activity import at_times, speech_problem, speech_weights
from latentsync.inference.faces.select import parse_face_choice
from latentsync.inference.jobs.source import Source, open_source
from latentsync.inference.jobs.timeline import Timeline, make_timeline
from latentsync.inference.settings import JobOptions, Silence
from latentsync.media.container import ChosenTracks, MediaError, PathLike, check_readable, default_track
from latentsync.media.pixels.pixel_format import pixel_format
from latentsync.media.probe import MediaInfo, made_here, probe
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.downmix import single_channel
from latentsync.media.sound.read import read_audio
from latentsync.media.video.codec_warnings import can_keep_fields, fields_warning, loss_warning
from latentsync.media.video.mux import CONTAINERS
from latentsync.media.video.write import VideoFormat
from latentsync.timebase import SAMPLE_RATE_HZ, samples_of_frames

BYTES_PER_PIXEL = 0.04  # of the output, stored twice (segments and the joined file); crf 15 needs about half of it


@dataclass(frozen=True)
class LipsyncJob:
    """A video or picture and an audio file that can be read, and an output that can be written."""

    video: Path
    audio: Path
    output: Path
    info: MediaInfo  # of the video
    source: Source
    waveform: np.ndarray  # float32 [n] at 16 kHz, at least one frame at 25 fps long
    sound_sec: Fraction  # of the audio, before padding
    format: VideoFormat  # of the output
    encoder: str  # name of the encoder
    options: JobOptions
    warnings: tuple[str, ...] = ()  # one sentence each, shown before the job runs

    @property
    def sound(self) -> AudioSource:
        """The audio track of the output. If it is the video's own track, it starts at the time of the first frame."""
        tracks = ChosenTracks(self.audio, audio=self.options.audio_track)
        return AudioSource(tracks, sound_start_sec(self.video, self.audio, self.info, self.options))

    @cached_property
    def timeline(self) -> Timeline:
        """Which source frame is shown when in the output."""
        options, wanted = self.options, self.sound_sec
        if options.limit_sec is not None and options.limit_sec < wanted:
            wanted = Fraction(options.limit_sec)
            options = replace(options, rest="cut")
        return make_timeline(self.source.times, wanted, self.format.time_base, options.length, options.rest)

    def lip_weights(self, silence: Silence) -> NDArray[np.float32]:
        """Opacity of the new lips by the sound, in each frame of the output: float32 [n], 0 where the source's lips stay."""
        starts = self.timeline.ticks[:-1] * float(self.format.time_base)
        keeps = silence == "keep"
        return at_times(speech_weights(self.waveform), starts) if keeps else np.ones(len(starts), np.float32)


def check_names(video: PathLike, audio: PathLike, output: PathLike, options: JobOptions, force: bool = False) -> None:
    """The part of `check_job` that takes milliseconds: raises what it raises for files that are missing or must not be replaced."""
    parse_face_choice(options.face)
    check_output(Path(output), (Path(video), Path(audio)), force)
    for path in (video, audio):
        check_readable(path)


def check_job(
    video: PathLike,
    audio: PathLike,
    output: PathLike,
    options: JobOptions | None = None,
    force: bool = False,
) -> LipsyncJob:
    """Open both inputs, and test that the output can be written; its folder is created if necessary.

    Raises:
        ValueError: `options.face` cannot be parsed.
        MediaError: the video or the audio is missing, cannot be read, or has no such track; no encoder is installed for the
            codec; or the output is one of the inputs, has an unknown extension, is a file not written by this program (unless
            `force`), is a folder, or its disk is full or read-only.
    """
    options = options or JobOptions()
    paths = Path(video), Path(audio), Path(output)
    check_names(*paths, options, force)
    pictures, sound = ChosenTracks(video, video=options.video_track), ChosenTracks(audio, audio=options.audio_track)
    info = probe(pictures)
    if info.is_still:
        options = replace(options, length="hold")
    waveform = read_audio(sound)
    waveform = waveform[round(sound_start_sec(paths[0], paths[1], info, options) * SAMPLE_RATE_HZ) :]
    sound_sec = Fraction(len(waveform), SAMPLE_RATE_HZ)
    requested = options.interlaced
    if not can_keep_fields(info):
        options = replace(options, interlaced="deinterlace")
    source = open_source(pictures, info, options.fps, options.interlaced)
    clock = {} if options.fps is None and not info.is_still else {"fps": source.rate, "time_base": 1 / source.rate}
    fields = info.field_order if options.interlaced == "keep" else ""
    format = VideoFormat.like(info, codec=options.codec, crf=options.crf, fields=fields, **clock)
    suffix = paths[2].suffix.lower()
    encoder, _ = format.encoding(suffix)
    if pixel_format(format.pixel_format).bits > 8 and encoder.codec != "mpeg4":
        format = replace(format, codec=encoder.codec)  # segments may have another extension than the output
    encoder.settings(format.crf)
    check_space(paths[2], info.width * info.height, float(max(sound_sec, Fraction(1)) * source.rate))
    missing = samples_of_frames(1) - len(waveform)
    picture_warnings = fields_warning(info, encoder, requested), loss_warning(info, format, encoder, suffix)
    warnings = (*track_warnings(pictures, sound), *filter(None, picture_warnings), *sound_warnings(sound, waveform))
    waveform = np.pad(waveform, (0, max(0, missing)))
    return LipsyncJob(*paths, info, source, waveform, sound_sec, format, encoder.name, options, warnings)


def track_warnings(pictures: ChosenTracks, sound: ChosenTracks) -> Iterator[str]:
    """Warnings that name the track used, where a file has several and none was chosen."""
    if track := default_track(pictures, "video"):
        yield f"{Path(pictures).name} has several video tracks: {track} is used. Choose another with --video_track."
    if track := default_track(sound, "audio"):
        yield f"{Path(sound).name} has several audio tracks: {track} is used. Choose another with --audio_track."


def sound_warnings(sound: ChosenTracks, waveform: np.ndarray) -> Iterator[str]:
    """Warnings about audio that will hardly move the lips: cancelling channels, silence, no speech. `waveform` is at 16 kHz."""
    name = Path(sound).name
    if (channel := single_channel(sound)) is not None:
        yield (
            f"The channels of {name} cancel each other (one is inverted): the network gets channel {channel + 1} alone."
            " The sound of the output is not changed."
        )
    problem = speech_problem(waveform)
    if problem == "inaudible":
        yield f"{name} is silent or too quiet for the network: the mouth will hardly move. Use louder audio or another track."
    elif problem == "no speech":
        yield f"{name} has no speech that can be detected, only a steady sound: the lips will hardly move. Is it the right file?"


def sound_start_sec(video: Path, audio: Path, info: MediaInfo, options: JobOptions) -> float:
    """Seconds of audio before the first frame, which are cut: above 0 only for the video's own audio and timestamps."""
    return info.start_sec if options.fps is None and video.resolve() == audio.resolve() else 0.0


def check_output(output: Path, inputs: tuple[Path, ...], force: bool = False) -> None:
    """Raise MediaError unless `output` can be written without replacing an input or a file of another program."""
    if output.suffix.lower() not in CONTAINERS:
        raise MediaError(f"cannot write {output}: give it a name that ends in {', '.join(CONTAINERS)}.")
    check_name(output)
    for path in inputs:
        if path.resolve() == output.resolve() or (path.exists() and output.exists() and path.samefile(output)):
            raise MediaError(f"cannot write {output}: it is an input of the same run. Give another name.")
    if output.is_dir():
        raise MediaError(f"cannot write {output}: it is a folder. Give the name of a file.")
    if output.exists() and not force and not made_here(output):
        raise MediaError(
            f"{output} exists and was not written by this program: give another name, or --force to replace it."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise MediaError(f"cannot write {output}: {error.strerror}. Choose another folder.") from error


def check_name(output: Path) -> None:
    """Raise MediaError if the names of the files that accompany `output` are too long for the file system."""
    try:
        output.with_suffix(".report.json.partial").lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MediaError(f"cannot write {output}: its name is too long. Choose a shorter one.") from error


def check_space(output: Path, pixels: int, frames: float) -> None:
    """Raise MediaError if the free disk space is certainly too small for `frames` frames of `pixels` pixels."""
    needed, free = BYTES_PER_PIXEL * pixels * frames, shutil.disk_usage(output.parent).free
    if free < needed:
        raise MediaError(
            f"cannot write {output}: about {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free. Free some space or"
            " choose another disk."
        )
