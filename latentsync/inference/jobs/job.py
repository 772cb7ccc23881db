"""A lip-sync job: two inputs, an output and options, checked before any model runs."""

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.audio.speech_activity import speech_problem
from latentsync.inference.faces.select import parse_face_choice
from latentsync.inference.jobs.found_speakers import SoughtSpeakers, check_found, sought_speakers
from latentsync.inference.jobs.ranges import EditedRange, check_ranges, edited_ranges, unused_sound_warning
from latentsync.inference.jobs.source import Source, open_masks, open_source
from latentsync.inference.jobs.speakers import FilmTimes, Speaker, Spoken, open_speakers
from latentsync.inference.jobs.speakers_file import SpeakersFile, is_speakers_file, read_speakers, speakers_of
from latentsync.inference.jobs.timeline import Timeline, film_timeline, make_timeline
from latentsync.inference.settings import JobOptions
from latentsync.media.container import ChosenTracks, MediaError, PathLike, check_readable, default_track
from latentsync.media.pixels.pixel_format import pixel_format
from latentsync.media.probe import MediaInfo, made_here, probe
from latentsync.media.signing import SigningFiles, check_signed, open_signing
from latentsync.media.sound.copy import AudioSource, PlacedSound, keeps_packets
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
    audio: Path  # or the file of speakers
    output: Path
    info: MediaInfo  # of the video
    source: Source
    people: tuple[Speaker, ...]  # whose lips are changed; each waveform is at least one frame at 25 fps long
    sound_sec: Fraction  # of the audio, before padding
    format: VideoFormat  # of the output
    encoder: str  # name of the encoder
    options: JobOptions
    warnings: tuple[str, ...] = ()  # one sentence each, shown before the job runs
    ranges: tuple[EditedRange, ...] = ()  # that are edited; none: the whole video
    film: Film | None = None  # whose packets are copied outside the ranges; None: all frames are encoded
    spoken_sound: AudioSource | None = None  # of a file of speakers
    spoken_files: tuple[Path, ...] = ()  # that it names
    masks: Source | None = None  # of what is in front of the faces; None: no masks are given
    signing: SigningFiles | None = None  # of the output's C2PA manifest; None: it has none
    sought: SoughtSpeakers | None = None  # who speaks when is found first, see `with_speakers`; None: it is known

    @property
    def sound(self) -> AudioSource:
        """The audio track of the output. If it is the video's own track, it starts at the time of the first frame."""
        if self.spoken_sound is not None:
            return self.spoken_sound
        tracks = ChosenTracks(self.audio, audio=self.options.audio_track)
        start_sec = sound_start_sec(self.video, self.audio, self.info, self.options)
        if not self.ranges:
            return AudioSource(tracks, start_sec + float(self.timeline.start_sec))
        spans = tuple(
            PlacedSound(each.start_sec, each.stop_sec, AudioSource(tracks, start_sec + float(each.sound_sec)))
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
        options, wanted, start_sec = self.options, self.sound_sec, Fraction(self.options.start_sec or 0)
        if options.limit_sec is not None and start_sec + Fraction(options.limit_sec) < wanted:
            wanted = start_sec + Fraction(options.limit_sec)
            options = replace(options, rest="cut")
        whole = make_timeline(self.source.times, wanted, self.format.time_base, options.length, options.rest)
        return whole.starting(start_sec)


def check_names(video: PathLike, audio: PathLike, output: PathLike, options: JobOptions, force: bool = False) -> None:
    """The part of `check_job` that takes milliseconds: raises what it raises for files that are missing or must not be replaced."""
    parse_face_choice(options.face)
    check_ranges(options)
    sought = sought_speakers(Path(audio), Path(output), options.speakers, is_speakers_file(Path(audio)))
    sounds: tuple[Path, ...] = (Path(audio),)
    named = sounds
    if is_speakers_file(Path(audio)):
        check_options_of_speakers(options)
        file = read_speakers(Path(audio))
        sounds, named = file.sounds, file.files
    elif options.speakers:
        check_options_of_speakers(options)
    if sought is not None:
        check_found(sought.path, force)
        named = (*named, *(sought.file.files if sought.file else ()))
    masks = tuple(filter(None, [options.masks]))
    check_output(Path(output), (Path(video), Path(audio), *named, *masks), force)
    for path in (Path(video), *sounds, *masks):
        check_readable(path)


def check_options_of_speakers(options: JobOptions) -> None:
    """Raise ValueError for options that contradict a file of speakers."""
    usual = JobOptions()
    for name in ("face", "ranges", "start_sec", "audio_track"):
        if getattr(options, name) != getattr(usual, name):
            raise ValueError(
                f"a file of speakers says whose face speaks when, and what: leave out {name.removesuffix('s')}."
            )


def check_job(
    video: PathLike,
    audio: PathLike,
    output: PathLike,
    options: JobOptions | None = None,
    force: bool = False,
    provenance: PathLike | None = None,
) -> LipsyncJob:
    """Open both inputs, and test that the output can be written; its folder is created if necessary.

    `audio`: an audio file, or a file of speakers (.json, .csv, .srt or .vtt, see `latentsync.inference.jobs.speakers_file`).
    `provenance`: a file of settings with which the output is signed (see `latentsync.media.signing`).

    Raises:
        ValueError: `options.face` or `options.ranges` cannot be parsed, a range is beyond the end of the video or the audio, or
            `options.start_sec` is beyond the end of the audio, or the file of speakers or that for signing is wrong, or masks
            are not as large, or not as many, as the video's frames.
        MediaError: the video, the audio or the masks are missing or cannot be read, or there is no such track; no encoder is
            installed for the codec; or the output is one of the inputs, has an unknown extension, is a file not written by this
            program (unless `force`), is a folder, or its disk is full or read-only; or it is to be signed and can hold no manifest.
        ModuleNotFoundError: it is to be signed, and the extra `provenance` is not installed.
    """
    options = options or JobOptions()
    paths = Path(video), Path(audio), Path(output)
    check_names(*paths, options, force)
    signing = signing_of(provenance, paths[2])
    pictures = ChosenTracks(video, video=options.video_track)
    info = probe(pictures)
    if info.is_still:
        options = replace(options, length="hold")
    requested = options.interlaced
    if not can_keep_fields(info):
        options = replace(options, interlaced="deinterlace")
    source = open_source(pictures, info, options.fps, options.interlaced)
    sought = sought_speakers(paths[1], paths[2], options.speakers, is_speakers_file(paths[1]))
    file = read_speakers(paths[1]) if is_speakers_file(paths[1]) else sought.file if sought else None
    if sought is not None:
        check_own_sound(paths[0], info)
    spoken = spoken_by_one(paths, info, options) if file is None else spoken_by_several(file, paths[0], source, options)
    if sought is not None and file is None:
        spoken = replace(spoken, people=())
    sound_sec = spoken.sound_sec
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
    picture_warnings = fields_warning(info, encoder, requested), loss_warning(info, format, encoder, suffix)
    range_warnings = (film_warning, *ranges_warnings(ranges, sound_sec, paths[1].name))
    warnings = (
        *track_warnings(pictures, (sound for sound, _ in spoken.waveforms)),
        *spoken.warnings,
        *filter(None, (*picture_warnings, *range_warnings)),
        *(
            warning
            for sound, waveform in spoken.waveforms
            for warning in sound_warnings(sound, sound_of_ranges(ranges, waveform))
        ),
    )
    people = tuple(replace(one, waveform=padded(sound_of_ranges(ranges, one.waveform))) for one in spoken.people)
    job = LipsyncJob(*paths, info, source, people, sound_sec, format, encoder.name, options, warnings, ranges, film)
    job = replace(job, signing=signing, sought=sought)
    assert len(job.timeline), "it raises for a start after the audio's end"
    if options.masks is not None:
        job = replace(job, masks=open_masks(options.masks, source))
    if file is not None:
        files = (*file.files, *([Path(options.speakers)] if options.speakers else []))
        return replace(job, spoken_sound=spoken.sound, spoken_files=files)
    return replace(job, warnings=(*warnings, *filter(None, [spliced_sound_warning(job)]))) if ranges else job


def signing_of(provenance: PathLike | None, output: Path) -> SigningFiles | None:
    """With whose signature an output is written. Raises what `open_signing` and `check_signed` do."""
    if provenance is None:
        return None
    check_signed(output)
    return open_signing(Path(provenance))


def spoken_by_one(paths: tuple[Path, Path, Path], info: MediaInfo, options: JobOptions) -> Spoken:
    """All of an audio file, said by the chosen person; `paths` of the video, the audio and the output."""
    sound, start_sec = ChosenTracks(paths[1], audio=options.audio_track), sound_start_sec(*paths[:2], info, options)
    waveform = read_audio(sound)[round(start_sec * SAMPLE_RATE_HZ) :]
    one = Speaker("", (options.face,), waveform)
    return Spoken((one,), AudioSource(sound, start_sec), Fraction(len(waveform), SAMPLE_RATE_HZ), ((sound, waveform),))


def check_own_sound(video: Path, info: MediaInfo) -> None:
    """Raise ValueError if a video has no sound, by which its speakers could be found."""
    if info.is_still or not info.has_audio:
        raise ValueError(
            f"{video.name} has no sound of its own, by which it could be found who speaks: name the faces in a file of speakers,"
            " see docs/dubbing.md."
        )


def with_speakers(job: LipsyncJob, content: Mapping[str, Any]) -> LipsyncJob:
    """A job whose speakers were found; `content` as of `found_content`. From here on it is that of a file of speakers."""
    assert job.sought is not None, "only then they are found"
    path = job.sought.path
    file = speakers_of(path, content)
    spoken = spoken_by_several(file, job.video, job.source, job.options)
    people = tuple(replace(one, waveform=padded(one.waveform)) for one in spoken.people)
    notes = [
        f"{path.name} says who speaks when, as it was found: correct it and give it with --speakers if it is wrong."
    ]
    unseen = [name for name in job.sought.names if content["people"][name]["face"] is None]
    if unseen:
        notes.append(f"No face of their own fits the voice of {', '.join(unseen)}, who is taken to be off screen.")
    return replace(
        job,
        people=people,
        warnings=(*job.warnings, *notes),
        spoken_sound=spoken.sound,
        spoken_files=file.files,
        sought=None,
    )


def spoken_by_several(file: SpeakersFile, video: Path, source: Source, options: JobOptions) -> Spoken:
    """What the people of a file say. Raises ValueError as `open_speakers` does."""
    end_sec = None if source.info.is_still else source.times[-1]
    slack_sec = source.times[-1] / (2 * len(source))  # half a frame
    start_sec = partial(sound_start_sec, video, info=source.info, options=options)
    return open_speakers(file, FilmTimes(video.name, end_sec, slack_sec, start_sec))


def padded(waveform: np.ndarray) -> np.ndarray:
    """A waveform that is at least as long as one frame of the networks."""
    return np.pad(waveform, (0, max(0, samples_of_frames(1) - len(waveform))))


def ranges_of(
    options: JobOptions, info: MediaInfo, source: Source, sound_sec: Fraction, names: tuple[str, str]
) -> tuple[EditedRange, ...]:
    """The ranges of a job; `names` of its video and audio. Raises ValueError as `edited_ranges` does, and for a picture."""
    ranges = check_ranges(options)
    if ranges and info.is_still:
        raise ValueError(f"{names[0]} is a picture, which has no ranges: leave out the range.")
    return edited_ranges(ranges, source.times, sound_sec, *names)


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


def track_warnings(pictures: ChosenTracks, sounds: Iterable[PathLike]) -> Iterator[str]:
    """Warnings that name the track used, where a file has several and none was chosen."""
    if track := default_track(pictures, "video"):
        yield f"{Path(pictures).name} has several video tracks: {track} is used. Choose another with --video_track."
    for sound in sounds:
        if track := default_track(sound, "audio"):
            way = "Choose another with --audio_track" if isinstance(sound, ChosenTracks) else "Extract another one"
            yield f"{Path(sound).name} has several audio tracks: {track} is used. {way}."


def sound_warnings(sound: PathLike, waveform: np.ndarray) -> Iterator[str]:
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
