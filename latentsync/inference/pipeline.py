"""The whole run: pass 1 finds the face in every frame, pass 2 repaints window after window and writes the output.

Frames live for two windows at most, whatever the length: the window in work and, where the video is played backwards,
the piece that is read ahead. The first pass keeps six floats a frame. The noise, the alignment's smoother and the audio
features belong to the run, not to a window, so windows meet without a seam. Frames without a face are passed through
and never share a window with others.

Legend: f frames, h w pixels of a frame, r face resolution in pixels, s audio tokens, d width of an audio token.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from torch import Tensor

from latentsync.audio.whisper_features import FeatureTrack, WhisperFeatures
from latentsync.face.align import FrameArray, warp_face
from latentsync.face.detect import FaceDetector
from latentsync.face.paste import paste_face
from latentsync.inference.job import Job, check_job
from latentsync.inference.models import LipsyncModels
from latentsync.inference.sampling import WindowSampler
from latentsync.inference.settings import RANDOM_SEED, InferenceSettings, PassedThrough, Report
from latentsync.inference.stopwatch import Stopwatch
from latentsync.inference.timeline import Span, Timeline, frames_in_order, spans
from latentsync.inference.tracks import FaceTrack, track_face
from latentsync.media.container import PathLike
from latentsync.media.read import frames_at, frames_between
from latentsync.media.write import AudioSource, VideoWriter
from latentsync.timebase import MODEL_FPS, frames_in

Progress = Callable[[str, int, int], None]  # (stage, frames done, frames in all); may raise to stop the run
STAGES = DETECT, GENERATE = "Find the face", "Generate lips"  # what progress is told of
CRF = 15  # of the encode: 46 dB outside the face on real footage that had been encoded before
KEPT_REFERENCES = 2  # windows whose latents are remembered: the end and the start of a run of faces


def ignore(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class LipsyncPipeline:
    """Models and a detector, loaded once, for any number of runs one after the other."""

    def __init__(self, models: LipsyncModels, detector: FaceDetector):
        self.models, self.detector = models, detector

    def __call__(
        self,
        video: PathLike,
        audio: PathLike,
        output: PathLike,
        settings: InferenceSettings | None = None,
        progress: Progress = ignore,
    ) -> Report:
        """Write `output` (MP4, 25 fps, as long as the audio): `video` with lips that speak `audio`, and its sound.

        Without `settings` those that the checkpoint recommends are used. The same seed gives the same frames.

        Raises:
            MediaError: a file cannot be read or written; mostly before the work begins (see `check_job`).
        """
        return self.run(check_job(video, audio, output), settings, progress)

    def run(self, job: Job, settings: InferenceSettings | None = None, progress: Progress = ignore) -> Report:
        """The same for a job that is checked already."""
        settings = with_seed(settings or self.models.defaults)
        stopwatch = Stopwatch()
        with stopwatch("detect"):
            track = self._track(job, progress)
        timeline = Timeline(len(track), job.output_frames)
        features = WhisperFeatures(self.models.audio_encoder).track(job.waveform)
        sampler = WindowSampler(self.models, settings, stopwatch)
        editor = WindowEditor(job, track, timeline, features, sampler, progress)
        parts = spans([bool(track.has_face[timeline.source(frame)]) for frame in range(timeline.output_count)])
        sound, size = AudioSource(job.audio), (job.info.width, job.info.height)
        with VideoWriter(job.output, *size, MODEL_FPS, CRF, sound) as writer:
            for frame in editor.frames(parts):
                with stopwatch("write"):
                    writer.write(frame)
        return self._report(job, settings, track, parts, stopwatch)

    def _track(self, job: Job, progress: Progress) -> FaceTrack:
        """Pass 1 over the frames that will be shown."""
        total = min(job.output_frames, max(1, frames_in(job.info.duration_sec)))
        frames = (shown.frame for shown in islice(frames_at(job.video, MODEL_FPS), job.output_frames))
        resolution = self.models.resolution
        return track_face(frames, self.detector, resolution, lambda done: progress(DETECT, done, max(done, total)))

    def _report(
        self, job: Job, settings: InferenceSettings, track: FaceTrack, parts: list[Span], stopwatch: Stopwatch
    ) -> Report:
        return Report(
            output=str(job.output),
            width=job.info.width,
            height=job.info.height,
            frames=job.output_frames,
            synced_frames=sum(len(span) for span in parts if span.has_face),
            passed_through=tuple(PassedThrough(s.start, s.stop, "no face") for s in parts if not s.has_face),
            source_frames=len(track),
            face_share=track.face_share,
            settings=settings,
            resolution=self.models.resolution,
            num_frames=self.models.num_frames,
            device=str(self.models.device),
            dtype=str(self.models.dtype).removeprefix("torch."),
            timings_sec={stage: round(seconds, 3) for stage, seconds in stopwatch.seconds.items()},
        )


def with_seed(settings: InferenceSettings) -> InferenceSettings:
    """The settings with a drawn seed in place of `RANDOM_SEED`."""
    return replace(settings, seed=random.SystemRandom().randrange(2**31)) if settings.seed == RANDOM_SEED else settings


@dataclass
class WindowEditor:
    """Pass 2: reads the frames of the timeline and repaints them window by window."""

    job: Job
    track: FaceTrack
    timeline: Timeline
    features: FeatureTrack
    sampler: WindowSampler
    progress: Progress
    references: dict[range, Tensor] = field(default_factory=dict)  # source frames -> latents b c f h w

    @property
    def num_frames(self) -> int:
        return self.sampler.models.num_frames

    def frames(self, parts: list[Span]) -> Iterator[FrameArray]:
        """Every output frame, uint8 h w 3; the parts cover the timeline."""
        shown = frames_in_order(self.read, self.timeline, self.num_frames)
        shown = self.sampler.stopwatch.each("read", shown)
        for span in parts:
            for window in span.windows(self.num_frames):
                held = list(islice(shown, len(window)))
                yield from self.repaint(window, held) if span.has_face else held
                self.progress(GENERATE, window.stop, self.timeline.output_count)

    def read(self, start: int, stop: int) -> Iterator[FrameArray]:
        """Source frames start ... stop - 1."""
        return (shown.frame for shown in frames_between(self.job.video, MODEL_FPS, start, stop))

    def repaint(self, window: range, frames: list[FrameArray]) -> Iterator[FrameArray]:
        """The frames of a window of the output with new lips."""
        stopwatch = self.sampler.stopwatch
        source = [self.timeline.source(frame) for frame in window]
        faces = self.align(frames, source)
        with stopwatch("listen"):
            audio = self.features.windows(window)  # f s d
        new = self.sampler.sample(faces, audio, self.reference(source), self._on_step(window))
        for frame, face, index in zip(frames, new, source, strict=True):
            with stopwatch("paste"):
                pasted = paste_face(frame, face, self.track.matrices[index])
            yield pasted

    def align(self, frames: list[FrameArray], source: list[int]) -> FrameArray:
        """The faces [f, r, r, 3] of source frames."""
        resolution = self.sampler.models.resolution
        with self.sampler.stopwatch("align"):
            pairs = zip(frames, self.track.matrices[source], strict=True)
            return np.stack([warp_face(frame, matrix, resolution) for frame, matrix in pairs])

    def reference(self, source: list[int]) -> Tensor | None:
        """Latents of another moment of the face, by the settings; None for the frames themselves."""
        if self.sampler.settings.reference == "current":
            return None
        window = self.track.reference_window(source, self.num_frames)
        if window not in self.references:
            self.references = dict(list(self.references.items())[1 - KEPT_REFERENCES :])
            with self.sampler.stopwatch("read"):
                frames = list(self.read(window.start, window.stop))
            self.references[window] = self.sampler.encode_window(self.align(frames, list(window)))
        return self.references[window]

    def _on_step(self, window: range) -> Callable[[int, int], None]:
        """Sampling steps as frames, so that progress moves inside a window too."""

        def told(step: int, steps: int) -> None:
            self.progress(GENERATE, window.start + len(window) * step // (steps + 1), self.timeline.output_count)

        return told
