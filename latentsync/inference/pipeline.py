"""A lip-sync run from files to file. Read `LipsyncPipeline.run` for an overview.

1. Pass 1 (`track_faces`) reads the video once and finds the faces in every frame; a few numbers per face and frame are kept.
2. If a job asks who speaks when, `with_found_speakers` finds it. `plans` decides whose face is edited in which frames, for each
   person; if asked, it finds what is in front of them.
3. Pass 2 (`Renderer`) reads the video again and repaints it window by window; a few windows of frames are in memory.
4. The output is written in segments, which are joined without a second encode.

Noise, the smoothing of the alignment and the audio features are computed for the whole run, so windows join without a seam.
Finished segments are kept in the job's folder: a stopped run resumes at the first missing one and gives the same bytes.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import latentsync
from latentsync.audio.speech_activity import speech_weights
from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.device import Precision, pick_device
from latentsync.face.align import FrameArray
from latentsync.face.detection.detector import FaceDetector, make_detector
from latentsync.inference.faces.occluders import Occluders, detect_occluders, given_occluders
from latentsync.inference.faces.people import find_people
from latentsync.inference.faces.plan import ACTIONS, EDIT, HIDDEN, OUTSIDE, FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.select import choose_face, parse_face_choice, picture_descriptor
from latentsync.inference.faces.tracks import FaceTracks, track_faces
from latentsync.inference.jobs.edited import EditedPerson
from latentsync.inference.jobs.folder import JobFolder, SegmentLocks, identity
from latentsync.inference.jobs.found_speakers import FOUND, found_content, write_found
from latentsync.inference.jobs.job import LipsyncJob, check_job, sound_start_sec, with_speakers
from latentsync.inference.jobs.render import OnFrame, Renderer, pictures_of
from latentsync.inference.jobs.report import JobReport, make_report
from latentsync.inference.jobs.segments import OutputSegment
from latentsync.inference.jobs.source import Source, read_masks
from latentsync.inference.jobs.speakers import Speaker
from latentsync.inference.jobs.workers import WorkerPool, worker_pool
from latentsync.inference.memory import memory_plan, return_freed_memory, share_one_heap
from latentsync.inference.model_files import find_model_files
from latentsync.inference.models import LipsyncModels
from latentsync.inference.pretrained import save_models
from latentsync.inference.settings import OFF, InferenceSettings, JobOptions
from latentsync.inference.threads import run_ahead
from latentsync.inference.timing import DETECT, GENERATE, Stopwatch
from latentsync.inference.voices.find import find_voices
from latentsync.inference.voices.network import VoiceNetwork
from latentsync.inference.windows.audio import audio_windows
from latentsync.inference.windows.live import LiveStream
from latentsync.inference.windows.references import usual_in_shots
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.inference.windows.stream import check_overlap
from latentsync.media.container import MediaError, PathLike
from latentsync.media.mark import Mark
from latentsync.media.signing import sign
from latentsync.media.sound.read import read_audio
from latentsync.media.video.join import join, join_film
from latentsync.models.unet.adapter import check_adapters
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from latentsync.weights import PUBLIC_UNET, CheckpointError
from latentsync.weights.adapters import adapters_of

Progress = Callable[[str, int, int], None]  # (stage, frames done, total frames); may raise to stop the run
READ, DETECT_STAGE = "read to look", "look"  # pipeline stages of pass 1, as the report names them
READ_AHEAD = 4  # frames that are read before they are needed
POLL_SEC = 0.2  # between checks whether other processes have finished their segments


def ignore(stage: str, done: int, total: int) -> None:
    """A `Progress` that does nothing."""


class LipsyncPipeline:
    """Models and a face detector, loaded once, for any number of runs one after the other."""

    sampler_type: type[WindowSampler] = WindowSampler

    def __init__(self, models: LipsyncModels, detector: FaceDetector, overlapped: bool = True):
        """Without `overlapped` reading, detection, sampling, pasting and writing run in one thread: slower, same result.

        Raises ValueError if the detector's points are not those with which the models' training faces were aligned.
        """
        models.check_detector(detector)
        share_one_heap()
        self.models, self.detector, self.overlapped = models, detector, overlapped
        self._voice_network: VoiceNetwork | None = None
        self._adapted: tuple[Any, LipsyncModels] = ((), models)  # the last adapters, and the models with them

    @classmethod
    def from_pretrained(
        cls,
        unet_path: PathLike = PUBLIC_UNET,
        unet_config_path: PathLike | None = None,
        detector: str = "face_alignment",
        device: torch.device | None = None,
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> "LipsyncPipeline":
        """Load a U-Net, the models that belong to it (see `LipsyncModels.load`), and a face detector by name.

        Instead of a U-Net's file `unet_path` can be a folder of `save_pretrained`.

        Raises:
            CheckpointError: files are missing or damaged (including the detector's; all are listed before any is read), or do
                not fit together.
            ValueError: the configuration or the detector is unknown, or the device does not support the precision.
        """
        config = None if unet_config_path is None else Path(unet_config_path)
        files = find_model_files(Path(unet_path), config, detector).check()
        device = device or pick_device()
        face_detector = make_detector(detector, device=str(device), alignment=files.facts["alignment"])
        return cls(LipsyncModels.load(Path(unet_path), config, device, precision, compiled), face_detector)

    def save_pretrained(self, folder: PathLike) -> None:
        """Write the networks into a new or empty folder, in diffusers' layout (see `latentsync.inference.pretrained`).

        Raises ValueError if the folder is not empty.
        """
        save_models(self.models, Path(folder))

    def __call__(
        self,
        video: PathLike,
        audio: PathLike,
        output: PathLike,
        settings: InferenceSettings | None = None,
        options: JobOptions | None = None,
        progress: Progress = ignore,
        job_dir: PathLike | None = None,
        force: bool = False,
        provenance: PathLike | None = None,
    ) -> JobReport:
        """Write `output`: `video` with lips that match `audio`, and with that audio.

        `audio` is an audio file, or for several people a file that says who speaks (.json, .csv, .srt or .vtt, docs/dubbing.md).

        `settings` default to the checkpoint's recommendation. The same seed gives the same frames. A stopped run resumes when
        called again with the same arguments. `job_dir` (default: OUTPUT.job) holds finished segments until then. `force`
        deletes what another job left there, and allows replacing an output that was not written by this program. `provenance`
        is a file of settings with which the output is signed (docs/provenance.md).

        Raises:
            ValueError: settings or options are invalid, or do not fit the models or the video.
            MediaError: a file cannot be read or written; mostly raised before any model runs (see `check_job`).
        """
        return self.run(check_job(video, audio, output, options, force, provenance), settings, progress, job_dir, force)

    def run(
        self,
        job: LipsyncJob,
        settings: InferenceSettings | None = None,
        progress: Progress = ignore,
        job_dir: PathLike | None = None,
        force: bool = False,
        pool: WorkerPool | None = None,
    ) -> JobReport:
        """Like `__call__` for a job that is already checked. The processes of `pool` write segments of it too."""
        requested = settings or self.models.defaults
        self._check(job, requested)
        stopwatch = Stopwatch()
        key, seed = self._key(job, requested), requested.seeded().seed
        with JobFolder(job_folder_of(job, job_dir), key, seed, force, job.format.segment_suffix) as folder:
            settings = replace(requested, seed=folder.seed)
            face_tracks = self._load_or_track_faces(job, folder, progress, stopwatch)
            job = self.with_found_speakers(job, face_tracks, progress, stopwatch, folder)
            plans = self.plans(job, face_tracks, progress, stopwatch, folder)
            renderer = self._renderer(job, settings, plans, stopwatch)
            with worker_pool(pool, job, settings, folder.folder) as worker_errors:
                self._write_segments(renderer, folder, lambda done: progress(GENERATE, done, renderer.frames))
            indices = range(len(renderer.output_segments))
            with stopwatch("hash"):
                mark = Mark.of(job.video) if job.options.mark else None
            with stopwatch("join"):
                write_output(job, renderer.output_segments, folder, mark)
            facts = [fact for index in indices for fact in folder.facts(index)]
            folder.remove()
        report = make_report(job, plans, self.models, settings, stopwatch, facts)
        signed = job.signing is not None
        return replace(report, warnings=(*report.warnings, *worker_errors), mark=mark, signed=signed)

    def assist(self, job: LipsyncJob, settings: InferenceSettings, job_dir: Path, on_frame: OnFrame) -> None:
        """In a worker process: write segments of a job that another process runs in `job_dir`, until none is left to start.

        Pass 1 and the plans must be finished. `settings` have the job's seed; `on_frame` may raise to stop.
        """
        folder = JobFolder(job_dir, {}, settings.seed, suffix=job.format.segment_suffix)
        plans = self.plans(job, FaceTracks.load(folder.faces), folder=folder)
        renderer = self._renderer(job, settings, plans, Stopwatch())
        with SegmentLocks(folder, len(renderer.output_segments)) as locks:
            renderer.write_segments(locks.acquire_missing(), folder, on_frame, self.overlapped)

    def track_faces(
        self, job: LipsyncJob, progress: Progress = ignore, stopwatch: Stopwatch | None = None
    ) -> FaceTracks:
        """Pass 1: the faces in all source frames that the output shows, or in the ranges that are edited."""
        stopwatch, order = stopwatch or Stopwatch(), job.timeline.order
        shown = int(order.max()) + 1
        parts = [each.frames for each in job.ranges] or [range(int(order.min()), shown)]
        count = sum(map(len, parts))
        pieces = (job.source.read(part.start, part.stop, exact=False) for part in parts)
        frames = stopwatch.each("read", chain.from_iterable(pieces))

        def on_frame(done: int) -> None:
            progress(DETECT, done, max(done, count))

        if not self.overlapped:
            return track_faces(frames, self.detector, on_frame, stopwatch, parts, shown)
        read, detect = stopwatch.stage_timer(READ), stopwatch.stage_timer(DETECT_STAGE)
        with run_ahead(frames, READ_AHEAD, read, detect) as frames_ahead, detect.running():
            return track_faces(frames_ahead, self.detector, on_frame, stopwatch, parts, shown)

    def with_found_speakers(
        self,
        job: LipsyncJob,
        face_tracks: FaceTracks,
        progress: Progress = ignore,
        stopwatch: Stopwatch | None = None,
        folder: JobFolder | None = None,
    ) -> LipsyncJob:
        """The job with its speakers, if they are sought: they are found, and written beside the output, and into the `folder`.

        Raises ValueError if nobody who is seen speaks.
        """
        if job.sought is None:
            return job
        if folder is not None and folder.speakers.is_file():
            content = json.loads(folder.speakers.read_text(encoding="utf-8"))
        else:
            with (stopwatch or Stopwatch())("speakers"):
                content = self._find_speakers(job, face_tracks, progress)
            if folder is not None:
                write_found(folder.speakers, content)
        content.pop(FOUND, None)
        write_found(job.sought.path, content)
        return with_speakers(job, content)

    def _find_speakers(self, job: LipsyncJob, face_tracks: FaceTracks, progress: Progress) -> dict[str, Any]:
        """Who speaks when, or whose face is whose, as the content of a file of speakers."""
        assert job.sought is not None, "only then they are found"
        source, count = job.source, face_tracks.frame_count
        times = source.times[: count + 1]
        given = {track for one in job.people if not one.is_sought for track in self._tracks_of(job, one, face_tracks)}
        people = [person for person in find_people(face_tracks) if not given & set(person.tracks)]
        start_sec = sound_start_sec(job.video, job.video, source.info, job.options)
        waveform = read_audio(job.video)[round(start_sec * SAMPLE_RATE_HZ) :]
        frames = source.read(0, count, exact=False)

        def on_frame(done: int) -> None:
            progress(DETECT, done, count)

        voices = find_voices(
            self._voices(), face_tracks, people, frames, times, waveform, self.models.resolution, on_frame
        )
        end_sec = min(float(times[-1]), float(job.sound_sec))
        return found_content(job.sought, voices.spans, end_sec, voices.together)

    def _voices(self) -> VoiceNetwork:
        """The network that finds who speaks, loaded once. Raises CheckpointError if it is missing or unusable."""
        if self._voice_network is None:
            if self.models.syncnet is None:
                raise CheckpointError("these models have no SyncNet, which finds who speaks: load them from files.")
            self._voice_network = VoiceNetwork.load(self.models.syncnet, self.models.device)
        return self._voice_network

    def plans(
        self,
        job: LipsyncJob,
        face_tracks: FaceTracks,
        progress: Progress = ignore,
        stopwatch: Stopwatch | None = None,
        folder: JobFolder | None = None,
    ) -> list[FacePlan]:
        """Where each of the job's people is edited in which source frame, by the job's options.

        With the option `occlusion` the edited frames are searched for what is in front; the masks are kept in the `folder`.

        Raises MediaError if a frame shows no face and `on_missing_face` is `error`, ValueError if a choice of the face matches
        nobody, or two choices match the same person.
        """
        chosen = [self._tracks_of(job, speaker, face_tracks) for speaker in job.people]
        for (first, own), (second, others) in combinations(zip(job.people, chosen, strict=True), 2):
            if set(own) & set(others):
                raise ValueError(
                    f"{first.name} and {second.name} have the same face in {job.video.name}: give each one's own, as numbered"
                    " by --preflight of the video with any sound."
                )
        people = list(zip(job.people, chosen, strict=True))
        plans = [self._plan(job, *each, face_tracks) for each in people]
        if job.options.occlusion == OFF:
            return plans
        found = self._occluders(job, plans, progress, stopwatch or Stopwatch(), folder)
        return [self._plan(job, *each, face_tracks, occluders) for each, occluders in zip(people, found, strict=True)]

    def _occluders(
        self,
        job: LipsyncJob,
        plans: Sequence[FacePlan],
        progress: Progress,
        stopwatch: Stopwatch,
        folder: JobFolder | None,
    ) -> Iterator[Occluders]:
        """What is in front of each person's face."""
        total, before = int(sum(plan.edited.sum() for plan in plans)), 0
        for person, plan in enumerate(plans):
            stored = None if folder is None else folder.occluders(person)
            if stored is not None and stored.is_file():
                yield Occluders.load(stored)
                continue

            def on_frame(done: int, before: int = before) -> None:
                progress(DETECT, before + done, total)

            with stopwatch("occlusion"):
                occluders = occluders_of(job.source, job.masks, plan, on_frame)
            if stored is not None:
                occluders.save(stored)
            before += int(plan.edited.sum())
            return_freed_memory()
            yield occluders

    def _tracks_of(self, job: LipsyncJob, speaker: Speaker, face_tracks: FaceTracks) -> list[int]:
        """The tracks of a person, by all choices of their face."""
        choices = [parse_face_choice(face) for face in speaker.faces]
        found = [choose_face(face_tracks, choice, job.source.times, self.detector) for choice in choices]
        return sorted(set(chain.from_iterable(found)))

    def _plan(
        self,
        job: LipsyncJob,
        speaker: Speaker,
        tracks: Sequence[int],
        face_tracks: FaceTracks,
        occluders: Occluders | None = None,
    ) -> FacePlan:
        options, times = job.options, job.source.times
        limits = {"min_face_px": options.min_face_px, "max_yaw_deg": options.max_yaw_deg}
        policy = FacePolicy(**{name: limit for name, limit in limits.items() if limit is not None})
        wanted = [each.frames for each in job.ranges] or None
        plan = plan_faces(face_tracks, tracks, policy, times, self.models.resolution, wanted, occluders)
        missing = ~plan.edited & ~np.isin(plan.action, ACTIONS[[OUTSIDE, HIDDEN]])
        if speaker.name:  # who may be out of the picture while somebody else speaks
            missing &= spoken_frames(job, speaker, len(plan))
        if options.on_missing_face == "error" and missing.any():
            first = int(np.flatnonzero(missing)[0])
            face = f"face of {speaker.name}" if speaker.name else "face"
            raise MediaError(
                f"{job.video} shows no {face} to edit in {missing.sum()} of {len(plan)} frames, first at"
                f" {float(times[first]):.2f} s ({plan.action[first]}): use --on_missing_face passthrough, or cut the video."
            )
        return plan

    def stream(
        self,
        waveform: np.ndarray,
        fps: float = MODEL_FPS,
        settings: InferenceSettings | None = None,
        policy: FacePolicy | None = None,
        reference_frames: Sequence[FrameArray] = (),
    ) -> LiveStream:
        """A stream into which frames are pushed one by one (see `LiveStream`); `waveform` is float32 [n] at 16 kHz.

        Raises ValueError if the settings need a reference but `reference_frames` show no face, or if the waveform is shorter
        than 20 ms.
        """
        chosen = (settings or self.models.defaults).seeded()
        audio = audio_windows(WhisperFeatures(self.models.audio_encoder).track(waveform), waveform, chosen)
        sampler = self.sampler_type(self.adapted(chosen), chosen, Stopwatch())
        weights = speech_weights(waveform) if chosen.silence == "keep" else None
        return LiveStream(sampler, self.detector, audio, fps, policy, reference_frames, weights)

    def adapted(self, settings: InferenceSettings) -> LipsyncModels:
        """The models with the adapters of the settings; those of the last call are kept.

        Raises CheckpointError if a file is missing, damaged, no adapter, or was trained on another U-Net.
        """
        adapters = adapters_of(settings.adapter)
        check_adapters(adapters)
        key = [(scale, identity(path)) for path, scale in adapters]
        if adapters and self._adapted[0] != key:
            self._adapted = (), self.models  # frees the memory first
            self._adapted = key, self.models.adapted(adapters)
        return self._adapted[1] if adapters else self.models

    def _check(self, job: LipsyncJob, settings: InferenceSettings) -> None:
        """Raise ValueError for settings that the models do not support, and if the picture of `face` shows no face."""
        self.adapted(settings)
        if job.sought is not None:
            self._voices()
        for speaker in job.people:
            self.models.check(speaker.settings(settings))
        check_overlap(settings.overlap, self.models.num_frames)
        for picture in face_pictures(job):
            picture_descriptor(picture, self.detector)

    def _load_or_track_faces(
        self, job: LipsyncJob, folder: JobFolder, progress: Progress, stopwatch: Stopwatch
    ) -> FaceTracks:
        """The result of pass 1, loaded from the job's folder if it is stored there."""
        if folder.faces.is_file():
            return FaceTracks.load(folder.faces)
        face_tracks = self.track_faces(job, progress, stopwatch)
        face_tracks.save(folder.faces)
        return_freed_memory()
        return face_tracks

    def _renderer(
        self, job: LipsyncJob, settings: InferenceSettings, plans: Sequence[FacePlan], stopwatch: Stopwatch
    ) -> Renderer:
        models = self.adapted(settings)
        memory = memory_plan(job.options.memory, models.device, models.resolution)
        whisper, read_pictures = WhisperFeatures(self.models.audio_encoder), pictures_of(job)
        people = []
        for speaker, plan in zip(job.people, plans, strict=True):
            sampler = self.sampler_type(models, speaker.settings(settings), stopwatch, memory)
            people.append(EditedPerson(job, speaker, plan, sampler, whisper, read_pictures))
        return Renderer(job, people)

    def _write_segments(self, renderer: Renderer, folder: JobFolder, on_frame: OnFrame) -> None:
        """Pass 2: write the missing segments, and wait for those that other processes write."""
        count = len(renderer.output_segments)
        with SegmentLocks(folder, count) as locks:
            while folder.missing_segments(count):
                renderer.write_segments(locks.acquire_missing(), folder, on_frame, self.overlapped)
                if folder.missing_segments(count):
                    time.sleep(POLL_SEC)
        on_frame(renderer.frames)

    def _key(self, job: LipsyncJob, settings: InferenceSettings) -> dict[str, Any]:
        """The key of a job: a job is resumed only if all of these are unchanged."""
        return {
            "video": identity(job.video),
            "audio": [identity(path) for path in (job.audio, *job.spoken_files)],
            "settings": repr(settings),
            "options": repr(job.options),
            "face": [identity(picture) for picture in face_pictures(job)],
            "masks": job.options.masks and identity(job.options.masks),
            "format": repr(job.format),
            "networks": self.adapted(settings).fingerprint,
            "detector": type(self.detector).__name__,
            "alignment": self.detector.alignment,
            "version": latentsync.__version__,
        }


def face_pictures(job: LipsyncJob) -> list[Path]:
    """The pictures by which people of a job are chosen."""
    known = [speaker for speaker in job.people if not speaker.is_sought]
    choices = [parse_face_choice(face) for speaker in known for face in speaker.faces]
    return [choice.picture for choice in choices if choice.picture is not None]


def spoken_frames(job: LipsyncJob, speaker: Speaker, count: int) -> NDArray[np.bool_]:
    """bool [count]: whether a source frame is shown while a person speaks, by the times of their segments."""
    spoken = np.zeros(count, np.bool_)
    spoken[job.timeline.order[speaker.lip_weights(job.timeline, "model") > 0]] = True
    return spoken


def write_output(job: LipsyncJob, segments: Sequence[OutputSegment], folder: JobFolder, mark: Mark | None) -> None:
    """Write a job's output from the files of its segments in `folder`, and sign it if it is to be signed."""
    files = [folder.segment_path(index) for index in range(len(segments))]
    if job.signing is None:
        join_segments(job, segments, files, job.output, mark)
        return
    unsigned = folder.unsigned_path(job.output.suffix)
    join_segments(job, segments, files, unsigned, mark)
    sign(unsigned, job.output, job.video, job.signing)


def join_segments(
    job: LipsyncJob, segments: Sequence[OutputSegment], files: Sequence[Path], path: Path, mark: Mark | None
) -> None:
    """Write the segments of a job to `path`, with the packets of the film around them if they are copied."""
    if job.film is None:
        join(files, path, job.sound, mark)
        return
    parts = [(range(segment.start, segment.stop), file) for segment, file in zip(segments, files, strict=True)]
    join_film(job.film, parts, job.timeline.ticks, job.timeline.time_base, path, job.sound, mark)


def job_folder_of(job: LipsyncJob, job_dir: PathLike | None) -> Path:
    """The job's folder: `job_dir`, or OUTPUT.job beside the output."""
    return Path(job_dir) if job_dir is not None else job.output.with_name(job.output.name + ".job")


def occluders_of(source: Source, masks: Source | None, plan: FacePlan, on_frame: Callable[[int], None]) -> Occluders:
    """What is in front of the face of a plan, by the given masks, or found in the `source`.

    `on_frame` gets the number of frames that are done.
    """
    if masks is not None:
        return given_occluders(partial(read_masks, masks), plan, on_frame)
    known = plan.action == ACTIONS[EDIT]
    return detect_occluders(partial(source.read, exact=False), plan, usual_in_shots(plan, known), known, on_frame)
