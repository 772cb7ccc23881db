"""A lip-sync job: two inputs, an output and options, checked before any model runs."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.speech_activity import at_times, speech_problem, speech_weights
from latentsync.face.align import FrameArray
from latentsync.inference.faces.select import parse_face_choice
from latentsync.inference.jobs.ranges import EditedRange, check_ranges, edited_ranges, unused_sound_warning
from latentsync.inference.jobs.source import Source, open_source
from latentsync.inference.jobs.timeline import Timeline, film_timeline, make_timeline
from latentsync.inference.settings import JobOptions, Silence
from latentsync.media.container import ChosenTracks, MediaError, PathLike, check_readable, default_track
from latentsync.media.pixels.pixel_format import pixel_format
from latentsync.media.probe import MediaInfo, made_here, probe
from latentsync.media.sound.copy import AudioSource, ReplacedSound, keeps_packets
from latentsync.media.sound.downmix import single_channel
from latentsync.media.sound.read import read_audio
from latentsync.media.video.codec_warnings import can_keep_fields, fields_warning, loss_warning
from latentsync.media.video.encode import X264, X265, Beside
from latentsync.media.video.film import Film, NotCopiedError, open_film
from latentsync.media.video.mux import CONTAINERS, container_format
from latentsync.media.video.write import VideoFormat
from latentsync.timebase import SAMPLE_RATE_HZ, samples_of_frames

PART_ENCODERS = (X264.name, X265.name)  # whose parts can be joined with packets of a film
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
    ranges: tuple[EditedRange, ...] = ()  # that are edited; none: the whole video
    film: Film | None = None  # whose packets are copied outside the ranges; None: all frames are encoded
    masks: Source | None = None  # of what is in front of the face; None: no masks are given

    @property
    def sound(self) -> AudioSource:
        """The audio track of the output. If it is the video's own track, it starts at the time of the first frame."""
        tracks = ChosenTracks(self.audio, audio=self.options.audio_track)
        start_sec = sound_start_sec(self.video, self.audio, self.info, self.options)
        if not self.ranges:
            return AudioSource(tracks, start_sec)
        spans = tuple(
            ReplacedSound(each.start_sec, each.stop_sec, AudioSource(tracks, start_sec + float(each.sound_sec)))
            for each in self.ranges
        )
        if not self.info.has_audio:
            return AudioSource(tracks, replaced=spans, is_muted=True)
        return AudioSource(self.video, self.info.start_sec, spans)

    @cached_property
    def encoded(self) -> tuple[range, ...]:
        """The frames of the output that are encoded; the others are copied from the video."""
        if self.film is None:
            return (range(len(self.timeline)),)
        return self.film.spans([each.frames for each in self.ranges])

    @cached_property
    def timeline(self) -> Timeline:
        """Which source frame is shown when in the output."""
        if self.ranges:
            return film_timeline(self.source.times, self.format.time_base, self.ranges)
        options, wanted = self.options, self.sound_sec
        if options.limit_sec is not None and options.limit_sec < wanted:
            wanted = Fraction(options.limit_sec)
            options = replace(options, rest="cut")
        return make_timeline(self.source.times, wanted, self.format.time_base, options.length, options.rest)

    def lip_weights(self, silence: Silence) -> NDArray[np.float32]:
        """Opacity of the new lips by the sound, in each frame of the output: float32 [n], 0 where the source's lips stay."""
        count = len(self.timeline)
        if silence != "keep":
            return np.ones(count, np.float32)
        return at_times(self.speech_weights, np.array([self.timeline.sound_sec(i) for i in range(count)]))

    def read_masks(self, start: int, stop: int) -> Iterator[FrameArray]:
        """The given masks of the source frames start ... stop - 1, uint8 h w 3."""
        assert self.masks is not None
        if self.masks.info.is_still:
            return repeat(next(self.masks.read(0, 1)), stop - start)
        return self.masks.read(start, stop, exact=False)

    @cached_property
    def speech_weights(self) -> NDArray[np.float32]:
        """See `latentsync.audio.speech_activity`."""
        return speech_weights(self.waveform)


def check_names(video: PathLike, audio: PathLike, output: PathLike, options: JobOptions, force: bool = False) -> None:
    """The part of `check_job` that takes milliseconds: raises what it raises for files that are missing or must not be replaced."""
    parse_face_choice(options.face)
    check_ranges(options)
    inputs = Path(video), Path(audio), *filter(None, [options.masks])
    check_output(Path(output), inputs, force)
    for path in inputs:
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
        ValueError: `options.face` or `options.ranges` cannot be parsed, or a range is beyond the end of the video or the audio;
            or masks are not as large, or not as many, as the video's frames.
        MediaError: the video, the audio or the masks are missing or cannot be read, or there is no such track; no encoder is
            installed for the codec; or the output is one of the inputs, has an unknown extension, is a file not written by this
            program (unless `force`), is a folder, or its disk is full or read-only.
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
    ranges = ranges_of(options, info, source, sound_sec, (paths[0].name, paths[1].name))
    if covers(ranges, source):
        ranges, options = (), replace(options, length="cut")
    format = VideoFormat.like(info, codec=options.codec, crf=options.crf, fields=fields, **clock)
    suffix = paths[2].suffix.lower()
    film, film_warning = film_of(pictures, info, format, suffix) if ranges else (None, None)
    if film is not None:
        format = part_format(film, format)
    encoder, _ = format.encoding(suffix)
    if pixel_format(format.pixel_format).bits > 8 and encoder.codec != "mpeg4":
        format = replace(format, codec=encoder.codec)  # segments may have another extension than the output
    encoder.settings(format.crf)
    frames = float(max(sound_sec, Fraction(1)) * source.rate) if not ranges or film else float(len(source))
    check_space(paths[2], info.width * info.height, frames, paths[0].stat().st_size if film else 0)
    missing = samples_of_frames(1) - len(waveform)
    picture_warnings = fields_warning(info, encoder, requested), loss_warning(info, format, encoder, suffix)
    range_warnings = (film_warning, *ranges_warnings(ranges, sound_sec, paths[1].name))
    waveform = sound_of_ranges(ranges, waveform)
    warnings = (
        *track_warnings(pictures, sound),
        *filter(None, (*picture_warnings, *range_warnings)),
        *sound_warnings(sound, waveform),
    )
    waveform = np.pad(waveform, (0, max(0, missing)))
    masks = None if options.masks is None else open_masks(options.masks, source)
    parts = options, warnings, ranges, film, masks
    job = LipsyncJob(*paths, info, source, waveform, sound_sec, format, encoder.name, *parts)
    return replace(job, warnings=(*warnings, *filter(None, [spliced_sound_warning(job)]))) if ranges else job


def ranges_of(
    options: JobOptions, info: MediaInfo, source: Source, sound_sec: Fraction, names: tuple[str, str]
) -> tuple[EditedRange, ...]:
    """The ranges of a job; `names` of its video and audio. Raises ValueError as `edited_ranges` does, and for a picture."""
    ranges = check_ranges(options)
    if ranges and info.is_still:
        raise ValueError(f"{names[0]} is a picture, which has no ranges: leave out the range.")
    return edited_ranges(ranges, source.times, sound_sec, *names)


def open_masks(path: Path, source: Source) -> Source:
    """The masks of a video's frames; a picture is the mask of all frames.

    Raises ValueError if they are not as large as the video, or not as many; MediaError if they cannot be read.
    """
    info = probe(path)
    width, height = source.info.square_size
    if info.square_size != (width, height):
        raise ValueError(
            f"the masks {path} are {info.square_size[0]} x {info.square_size[1]}, but the video is {width} x {height}: give"
            " masks as large as the video."
        )
    if info.is_still:
        return open_source(path, info)
    masks = open_source(path, info, source.fps)
    if len(masks) != len(source):
        raise ValueError(
            f"the masks {path} have {len(masks)} frames, but the video has {len(source)}: give one mask for each frame, or a"
            " picture."
        )
    return masks


def covers(ranges: tuple[EditedRange, ...], source: Source) -> bool:
    """Whether a range is the whole video with the audio from its start, so that nothing is kept and nothing is copied."""
    whole = len(ranges) == 1 and ranges[0].frames == range(len(source))
    return whole and ranges[0].start_sec == 0 == ranges[0].sound_sec


def film_of(
    pictures: ChosenTracks, info: MediaInfo, format: VideoFormat, suffix: str
) -> tuple[Film | None, str | None]:
    """The video whose packets are copied outside the ranges; or None and a warning that says why all frames are encoded."""
    try:
        film = open_film(pictures)
        if format.codec not in ("auto", film.codec):
            raise NotCopiedError(f"the codec {format.codec} is asked for")
        encoder, form = part_format(film, format).encoding(suffix)
        if encoder.name not in PART_ENCODERS:
            raise NotCopiedError(f"this PyAV has no encoder for parts of {film.codec}")
        if form.pixel_format != info.pixel_format.replace("yuvj", "yuv"):
            raise NotCopiedError(f"its pictures are {info.pixel_format}, and {encoder.name} writes {form.pixel_format}")
        if (form.colour.matrix, form.colour.full_range) != (info.colour.matrix, info.colour.full_range):
            raise NotCopiedError("its colour matrix cannot be written")
    except (NotCopiedError, MediaError) as error:
        return None, f"All frames of {Path(pictures).name} are encoded again, also outside the ranges: {error}."
    return film, None


def part_format(film: Film, format: VideoFormat) -> VideoFormat:
    """The format of parts that are joined with the packets of a film, with its stored size."""
    orientation = film.index.orientation
    if orientation.turned:
        aspect = 1 / format.sample_aspect
        format = replace(format, width=format.height, height=format.width, sample_aspect=aspect)
    return replace(format, codec=film.codec, beside=Beside(film.parameter_set_id, film.profile, orientation))  # type: ignore[arg-type]


def sound_of_ranges(ranges: tuple[EditedRange, ...], waveform: np.ndarray) -> np.ndarray:
    """The parts of the audio that the ranges use, joined; without ranges all of it."""
    if not ranges:
        return waveform
    spans = [(each.sound_sec * SAMPLE_RATE_HZ, each.sound_stop_sec * SAMPLE_RATE_HZ) for each in ranges]
    return np.concatenate([waveform[round(start) : round(stop)] for start, stop in spans])


def ranges_warnings(ranges: tuple[EditedRange, ...], sound_sec: Fraction, audio: str) -> Iterator[str]:
    """Warnings about audio that is left over."""
    if ranges and (warning := unused_sound_warning(ranges, sound_sec, audio)):
        yield warning


def spliced_sound_warning(job: LipsyncJob) -> str | None:
    """A warning if the video's own sound is encoded again outside the ranges; None if its packets are copied."""
    if not job.info.has_audio or keeps_packets(job.sound, container_format(job.output)):
        return None
    return (
        f"All sound of {job.video.name} is encoded again as AAC: only AAC (LC) and PCM that {job.output.suffix} files hold can be"
        " copied around the ranges."
    )


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


def check_space(output: Path, pixels: int, frames: float, copied_bytes: int = 0) -> None:
    """Raise MediaError if the free disk space is certainly too small for `frames` frames of `pixels` pixels and what is copied."""
    needed, free = BYTES_PER_PIXEL * pixels * frames + copied_bytes, shutil.disk_usage(output.parent).free
    if free < needed:
        raise MediaError(
            f"cannot write {output}: about {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free. Free some space or"
            " choose another disk."
        )
