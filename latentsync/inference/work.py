"""Pass 2 of a job: the output part by part, each read, sampled, pasted and written on its own.

Frames live for two groups of windows at most, whatever the length: the group in work and, where the video is played backwards,
the piece that is read ahead.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from torch import Tensor

from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.face.align import FrameArray, warp_face
from latentsync.inference.face_plan import FacePlan
from latentsync.inference.job import Job
from latentsync.inference.job_folder import JobFolder
from latentsync.inference.parts import PART_SEC, Part, plan_parts
from latentsync.inference.references import ElsewhereReference, ReferenceLatents, closed_reference, takes_of
from latentsync.inference.reporting import Fact, takes_in_output
from latentsync.inference.sampling import WindowSampler
from latentsync.inference.stream import PASSED, FrameIn, FrameOut, LipsyncStream
from latentsync.inference.timeline import frames_in_order
from latentsync.media.write import VideoWriter

OnFrame = Callable[[int], None]  # told how many frames of the output are done


class Work:
    """Pass 2 of one job: the output's parts, each sampled and written on its own."""

    def __init__(self, job: Job, plan: FacePlan, sampler: WindowSampler, listener: WhisperFeatures):
        self.job, self.plan, self.sampler = job, plan, sampler
        self.num_frames, self.stride = sampler.models.num_frames, job.source.stride
        self.timeline = job.timeline
        self.features = listener.track(job.waveform)
        self.takes = takes_in_output(job, plan)
        overlap = sampler.settings.overlap
        fresh = (self.num_frames - overlap) * self.stride
        self.parts = plan_parts(self.takes, round(PART_SEC * job.source.rate), fresh, overlap)
        self.references = ReferenceLatents(self._reference_choice(), self._encode_reference)

    def write_part(self, index: int, folder: JobFolder, on_frame: OnFrame) -> None:
        """Sample and write one part of the output into the job's folder."""
        part, ticks = self.parts[index], self.timeline.ticks
        facts: list[Fact] = []
        with VideoWriter(folder.part(index), self.job.format) as writer:
            for frame, done in zip(range(part.start, part.stop), self._frames(part), strict=True):
                with self.sampler.stopwatch("write"):
                    duration = int(ticks[frame + 1] - ticks[frame])
                    writer.write(done.frame, int(ticks[frame] - ticks[part.start]), duration)
                if done.fault or done.retried:
                    facts.append((frame, done.fault, done.retried))
                on_frame(frame + 1)
            folder.save_facts(index, facts)

    def _frames(self, part: Part) -> Iterator[FrameOut]:
        """The output frames of one part."""
        stream = LipsyncStream(self.sampler, self.features, self.references, self.stride, self.sampler.settings.overlap)
        order = self.timeline.order[part.warm_start : part.stop]
        shown = frames_in_order(self.job.source.read, order, stream.group_frames)
        done = self._pushed(stream, self.sampler.stopwatch.each("read", shown), part.warm_start)
        return islice(done, part.start - part.warm_start, None)

    def _pushed(self, stream: LipsyncStream, frames: Iterator[FrameArray], start: int) -> Iterator[FrameOut]:
        for index, frame in enumerate(frames, start):
            yield from stream.push(self._frame_in(index, frame))
        yield from stream.flush()

    def _frame_in(self, index: int, frame: FrameArray) -> FrameIn:
        source = int(self.timeline.order[index])
        take, time_sec = int(self.takes[index]), self.timeline.time_sec(index)
        if take == PASSED:
            return FrameIn(frame, time_sec, source)
        return FrameIn(frame, time_sec, source, take, self.plan.matrices[source], float(self.plan.weight[source]))

    def _reference_choice(self) -> Callable[[Sequence[int]], range] | None:
        policy, takes = self.sampler.settings.reference, takes_of(self.plan.take)
        if policy == "current" or not takes:
            return None
        if policy == "elsewhere":
            return ElsewhereReference(takes, self.num_frames, self.stride)
        return closed_reference(takes, self.plan.opening, self.num_frames, self.stride)

    def _encode_reference(self, window: range) -> Tensor:
        """Latents of source frames."""
        with self.sampler.stopwatch("read"):
            frames = list(islice(self.job.source.read(window[0], window[-1] + 1), 0, None, window.step))
        matrices, resolution = (
            self.plan.matrices[window.start : window.stop : window.step],
            self.sampler.models.resolution,
        )
        pairs = zip(frames, matrices, strict=True)
        return self.sampler.encode_window(np.stack([warp_face(frame, matrix, resolution) for frame, matrix in pairs]))
