"""One person of a job in pass 2: in which frames they are edited, with which audio, references and sampler."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
from torch import Tensor

from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.diffusion.solvers import OnStep
from latentsync.face.align import rescaled
from latentsync.inference.faces.plan import NOT_EDITED, FacePlan
from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.jobs.segments import segment_of_frames
from latentsync.inference.jobs.speakers import Speaker
from latentsync.inference.windows.audio import audio_windows
from latentsync.inference.windows.latents import LatentCache
from latentsync.inference.windows.references import ReferenceLatents, reference_choice
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.inference.windows.stream import FrameIn, FrameOut, LipsyncStream, Repainted, face_of
from latentsync.media.pixels.picture import Picture

ReadPictures = Callable[[int, int], Iterator[Picture]]  # frames start ... stop - 1 of the source


class EditedPerson:
    """Prepares the frames of one person for a stream; `sampler` has their settings and belongs to them alone."""

    def __init__(
        self,
        job: LipsyncJob,
        speaker: Speaker,
        plan: FacePlan,
        sampler: WindowSampler,
        whisper: WhisperFeatures,
        read_pictures: ReadPictures,
    ):
        self.plan, self.sampler, self.timeline, self.stride = plan, sampler, job.timeline, job.source.stride
        self.read_pictures = read_pictures
        # the plan's matrices are for square pixels; stored pixels may not be square
        self.matrices = rescaled(plan.matrices, job.info.square_scale).astype(np.float32)
        self.audio = audio_windows(whisper.track(speaker.waveform), speaker.waveform, sampler.settings)
        self.lip_weights = speaker.lip_weights(job.timeline, sampler.settings.silence)
        self.segment_of_frame = segment_of_frames(plan.segment, job.timeline, self.lip_weights)
        choice = reference_choice(sampler.settings.reference, plan, sampler.models.num_frames, self.stride)
        self.references = ReferenceLatents(choice, self._encode_reference)
        sampler.latent_cache = LatentCache(self.timeline.order[self.segment_of_frame != NOT_EDITED])

    def stream(self, on_step: OnStep) -> LipsyncStream:
        """A new stream for the person's frames."""
        return LipsyncStream(
            self.sampler, self.audio, self.references, self.stride, self.sampler.settings.overlap, on_step
        )

    def frame_in(self, index: int, picture: Picture) -> FrameIn:
        """Frame `index` of the output, with the person's face already warped if it is edited."""
        source = int(self.timeline.order[index])
        segment, time_sec = int(self.segment_of_frame[index]), self.timeline.sound_sec(index)
        if segment == NOT_EDITED:
            return FrameIn(picture, time_sec, source)
        matrix, resolution = self.matrices[source], self.sampler.models.resolution
        with self.sampler.stopwatch("align"):
            face = face_of(picture, matrix, resolution)
        outline = self.plan.outline(source, self.plan.matrices[source], resolution)
        visible = self.plan.visible(source, self.plan.matrices[source], resolution)
        weight = float(self.plan.weight[source] * self.lip_weights[index])
        return FrameIn(picture, time_sec, source, segment, matrix, weight, face, outline, visible)

    def _encode_reference(self, window: range) -> Tensor:
        """Latents of the faces in the source frames `window`."""
        with self.sampler.stopwatch("read"):
            pictures = list(islice(self.read_pictures(window[0], window[-1] + 1), 0, None, window.step))
        with self.sampler.stopwatch("align"):
            matrices = self.matrices[window.start : window.stop : window.step]
            pairs, resolution = zip(pictures, matrices, strict=True), self.sampler.models.resolution
            faces = np.stack([face_of(picture, matrix, resolution) for picture, matrix in pairs])
        return self.sampler.encode_window(faces)


Frames = list[FrameIn]  # one frame of the output for each person, in their order
Faces = list[Repainted]  # the same with new faces


class StreamsTogether:
    """The streams of all people of a job. Each samples windows of its own; a frame leaves when all its faces are finished."""

    def __init__(self, streams: list[LipsyncStream]):
        self.streams = streams
        self.waiting: list[list[Repainted]] = [[] for _ in streams]

    @property
    def group_frames(self) -> int:
        """At most so many frames are held."""
        return max(stream.group_frames for stream in self.streams)

    def repaint(self, items: Frames) -> list[Faces]:
        """Push a frame; returns those whose new faces are all finished."""
        for stream, waiting, item in zip(self.streams, self.waiting, items, strict=True):
            waiting.extend(stream.repaint(item))
        return self._finished()

    def rest(self) -> list[Faces]:
        """Finish all held frames."""
        for stream, waiting in zip(self.streams, self.waiting, strict=True):
            waiting.extend(stream.rest())
        return self._finished()

    def paste(self, faces: Faces) -> list[FrameOut]:
        """Paste one face after the other into a frame; the last result has all of them."""
        done: list[FrameOut] = []
        for stream, face in zip(self.streams, faces, strict=True):
            picture = done[-1].picture if done else face.item.picture
            done.append(stream.paste(replace(face, item=replace(face.item, picture=picture))))
        return done

    def _finished(self) -> list[Faces]:
        count = min(map(len, self.waiting))
        finished = [list(faces) for faces in zip(*(waiting[:count] for waiting in self.waiting), strict=True)]
        for waiting in self.waiting:
            del waiting[:count]
        return finished
