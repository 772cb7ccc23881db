"""The whole run: pass 1 finds the faces in every frame, pass 2 repaints window after window and writes the output.

The first pass keeps some floats a face and frame, the second some frames. The noise, the alignment's smoother and the audio
features belong to the run, not to a window, so windows meet without a seam. The output is written in parts, each under its own
name when it is complete, and joined without a second encode; a run that was stopped goes on with the first missing part and
gives the same bytes.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latentsync
from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.device import Precision, pick_device
from latentsync.face.align import FrameArray
from latentsync.face.detection.detector import FaceDetector, make_detector
from latentsync.inference.faces.plan import FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.select import choose_face, parse_face_choice, picture_descriptor
from latentsync.inference.faces.tracks import FaceTracks, track_faces
from latentsync.inference.jobs.folder import JobFolder, SegmentLocks, identity
from latentsync.inference.jobs.job import LipsyncJob, check_job
from latentsync.inference.jobs.render import OnFrame, Renderer
from latentsync.inference.jobs.report import JobReport
from latentsync.inference.jobs.reporting import make_report
from latentsync.inference.jobs.workers import WorkerPool, worker_pool
from latentsync.inference.memory import memory_plan, return_freed_memory, share_one_heap
from latentsync.inference.model_files import find_model_files
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import InferenceSettings, JobOptions
from latentsync.inference.threads import run_ahead
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.live import LiveStream
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.inference.windows.stream import check_overlap
from latentsync.media.container import MediaError, PathLike
from latentsync.media.video.join import join
from latentsync.timebase import MODEL_FPS
from latentsync.weights import PUBLIC_UNET

Progress = Callable[[str, int, int], None]  # (stage, frames done, frames in all); may raise to stop the run
READ_TO_LOOK, LOOK = "read to look", "look"  # the lanes of pass 1
LOOK_AHEAD = 4  # frames that are read before they are looked at
LOOK_AGAIN_SEC = 0.2  # at parts that other processes write
STAGES = DETECT, GENERATE = "Find the face", "Generate lips"  # what progress is told of


def ignore(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class LipsyncPipeline:
    """Models and a detector, loaded once, for any number of runs one after the other."""

    def __init__(self, models: LipsyncModels, detector: FaceDetector, overlapped: bool = True):
        """Without `overlapped` reading, detection, sampling, pasting and writing take turns in one thread: slower, with
        the same result.

        Raises ValueError where the detector's points are not those that the models' faces were aligned by.
        """
        models.check_detector(detector)
        share_one_heap()
        self.models, self.detector, self.overlapped = models, detector, overlapped

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
        """Load a U-Net, what belongs to it (see `LipsyncModels.load`), and a face detector by its name.

        Raises:
            CheckpointError: files are missing or damaged, those of the detector among them (all are named before any is
                read), or do not fit.
            ValueError: the configuration or the detector is unknown, or the device cannot do what is asked for.
        """
        config = None if unet_config_path is None else Path(unet_config_path)
        files = find_model_files(Path(unet_path), config, detector).check()
        device = device or pick_device()
        found = make_detector(detector, device=str(device), alignment=files.facts["alignment"])
        return cls(LipsyncModels.load(Path(unet_path), config, device, precision, compiled), found)

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
    ) -> JobReport:
        """Write `output`: `video` with lips that speak `audio`, and its sound.

        Without `settings` those that the checkpoint recommends are used. The same seed gives the same frames. A run that
        was stopped goes on when it is called again; `job_dir` (default: OUTPUT.job) holds what is finished until then,
        `force` drops what another job left there and lets the output replace a file that is no result of this program.

        Raises:
            MediaError: a file cannot be read or written; mostly before the work begins (see `check_job`).
        """
        return self.run(check_job(video, audio, output, options, force), settings, progress, job_dir, force)

    def run(
        self,
        job: LipsyncJob,
        settings: InferenceSettings | None = None,
        progress: Progress = ignore,
        job_dir: PathLike | None = None,
        force: bool = False,
        pool: WorkerPool | None = None,
    ) -> JobReport:
        """The same for a job that is checked already; a `pool` of other processes writes parts of it too."""
        asked = settings or self.models.defaults
        self.models.check(asked)
        check_overlap(asked.overlap, self.models.num_frames)
        choice = parse_face_choice(job.options.face)
        if choice.picture is not None:
            picture_descriptor(choice.picture, self.detector)  # a picture without a face is told before the work begins
        stopwatch, suffix = Stopwatch(), job.format.segment_suffix
        with JobFolder(
            job_folder_of(job, job_dir), self._key(job, asked), asked.seeded().seed, force, suffix
        ) as folder:
            settings = replace(asked, seed=folder.seed)
            face_tracks = self._face_tracks(job, folder, progress, stopwatch)
            renderer = self._prepare(job, settings, face_tracks, stopwatch)
            with worker_pool(pool, job, settings, folder.folder) as errors:
                self._write_all(renderer, folder, lambda done: progress(GENERATE, done, len(job.timeline)))
            with stopwatch("join"):
                paths = [folder.segment_path(index) for index in range(len(renderer.output_segments))]
                join(paths, job.output, job.sound)
            facts = [fact for index in range(len(renderer.output_segments)) for fact in folder.facts(index)]
            folder.remove()
        report = make_report(job, renderer.plan, self.models, settings, stopwatch, facts)
        return replace(report, warnings=(*report.warnings, *errors))

    def assist(self, job: LipsyncJob, settings: InferenceSettings, folder: Path, on_frame: OnFrame) -> None:
        """Write parts of a job that another process runs in `folder`, where pass 1 is over, until none is free.

        `settings` are those with the job's seed; `on_frame` may raise to stop.
        """
        parts = JobFolder(folder, {}, settings.seed, suffix=job.format.segment_suffix)
        renderer = self._prepare(job, settings, FaceTracks.load(parts.faces), Stopwatch())
        with SegmentLocks(parts, len(renderer.output_segments)) as claims:
            renderer.write_segments(claims.free(), parts, on_frame, self.overlapped)

    def _write_all(self, renderer: Renderer, folder: JobFolder, on_frame: OnFrame) -> None:
        """Write the parts that are missing, and wait for those that others write."""
        with SegmentLocks(folder, len(renderer.output_segments)) as claims:
            while folder.missing_segments(len(renderer.output_segments)):
                renderer.write_segments(claims.free(), folder, on_frame, self.overlapped)
                if folder.missing_segments(len(renderer.output_segments)):
                    time.sleep(LOOK_AGAIN_SEC)
        on_frame(len(renderer.timeline))

    def stream(
        self,
        waveform: np.ndarray,
        fps: float = MODEL_FPS,
        settings: InferenceSettings | None = None,
        policy: FacePolicy | None = None,
        reference_frames: Sequence[FrameArray] = (),
    ) -> LiveStream:
        """Frames pushed one by one instead of a file (see `LiveStream`); `waveform` is float32 [n] at 16 kHz.

        Raises ValueError where the settings ask for a reference and `reference_frames` show no face, or for a waveform
        shorter than 20 ms.
        """
        chosen = (settings or self.models.defaults).seeded()
        features = WhisperFeatures(self.models.audio_encoder).track(waveform)
        sampler = WindowSampler(self.models, chosen, Stopwatch())
        return LiveStream(sampler, self.detector, features, fps, policy, reference_frames)

    def track_faces(
        self, job: LipsyncJob, progress: Progress = ignore, stopwatch: Stopwatch | None = None
    ) -> FaceTracks:
        """Pass 1: the faces in the frames that will be shown."""
        stopwatch, count = stopwatch or Stopwatch(), int(job.timeline.order.max()) + 1
        frames = stopwatch.each("read", job.source.read(0, count, exact=False))

        def look(frames: Iterable[FrameArray]) -> FaceTracks:
            def on_frame(done: int) -> None:
                progress(DETECT, done, max(done, count))

            return track_faces(frames, self.detector, on_frame, stopwatch)

        if not self.overlapped:
            return look(frames)
        reading, looking = stopwatch.stage_timer(READ_TO_LOOK), stopwatch.stage_timer(LOOK)
        with run_ahead(frames, LOOK_AHEAD, reading, looking) as ready, looking.running():
            return look(ready)

    def _face_tracks(self, job: LipsyncJob, folder: JobFolder, progress: Progress, stopwatch: Stopwatch) -> FaceTracks:
        if folder.faces.is_file():
            return FaceTracks.load(folder.faces)
        face_tracks = self.track_faces(job, progress, stopwatch)
        face_tracks.save(folder.faces)
        return_freed_memory()
        return face_tracks

    def _prepare(
        self, job: LipsyncJob, settings: InferenceSettings, face_tracks: FaceTracks, stopwatch: Stopwatch
    ) -> "Renderer":
        plan = plan_of(job, face_tracks, self)
        memory = memory_plan(job.options.memory, self.models.device, self.models.resolution)
        sampler = WindowSampler(self.models, settings, stopwatch, memory)
        return Renderer(job, plan, sampler, WhisperFeatures(self.models.audio_encoder))

    def _key(self, job: LipsyncJob, settings: InferenceSettings) -> dict[str, Any]:
        """What must be the same for a job to go on."""
        picture = parse_face_choice(job.options.face).picture
        return {
            "video": identity(job.video),
            "audio": identity(job.audio),
            "settings": repr(settings),
            "options": repr(job.options),
            "face": picture and identity(picture),
            "format": repr(job.format),
            "networks": self.models.fingerprint,
            "detector": type(self.detector).__name__,
            "alignment": self.detector.alignment,
            "version": latentsync.__version__,
        }


def job_folder_of(job: LipsyncJob, job_dir: PathLike | None) -> Path:
    return Path(job_dir) if job_dir is not None else job.output.with_name(job.output.name + ".job")


def plan_of(job: LipsyncJob, face_tracks: FaceTracks, pipeline: LipsyncPipeline) -> FacePlan:
    """Whose face is edited in which source frame, by the job's options.

    Raises MediaError where a face is missing and `on_missing_face` is `error`, ValueError where the choice names nobody.
    """
    options, times = job.options, job.source.times
    tracks = choose_face(face_tracks, parse_face_choice(options.face), times, pipeline.detector)
    limits = {"min_face_px": options.min_face_px, "max_yaw_deg": options.max_yaw_deg}
    policy = FacePolicy(**{name: limit for name, limit in limits.items() if limit is not None})
    plan = plan_faces(face_tracks, tracks, policy, times, pipeline.models.resolution)
    missing = np.flatnonzero(~plan.edited)
    if options.on_missing_face == "error" and len(missing):
        first = int(missing[0])
        raise MediaError(
            f"{job.video} shows no face to edit in {len(missing)} of {len(plan)} frames, first at"
            f" {float(times[first]):.2f} s ({plan.action[first]}): use --on-missing-face passthrough, or cut it."
        )
    return plan
