"""Pass 2 of a job: writes the output in segments, each read, sampled, pasted and encoded independently.

Reading, repainting, pasting and writing overlap, also across segment borders: while the networks process one group of windows,
the next group is read and the previous one is pasted and written. Memory holds about three groups of frames, however long the
video is (one read ahead, one in the networks, one being written), plus the piece being read where the video plays backwards.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from operator import itemgetter

import numpy as np
from torch import Tensor

from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.diffusion.solvers import OnStep
from latentsync.face.align import rescaled
from latentsync.inference.faces.plan import NOT_EDITED, FacePlan
from latentsync.inference.jobs.folder import JobFolder
from latentsync.inference.jobs.job import LipsyncJob
from latentsync.inference.jobs.report import Fact
from latentsync.inference.jobs.segments import OUTPUT_SEGMENT_SEC, plan_encoded_segments, segment_of_frames
from latentsync.inference.jobs.timeline import frames_in_order
from latentsync.inference.memory import return_freed_memory
from latentsync.inference.threads import run_ahead, run_behind
from latentsync.inference.windows.audio import audio_windows
from latentsync.inference.windows.latents import LatentCache
from latentsync.inference.windows.references import ReferenceLatents, reference_choice
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.inference.windows.stream import FrameIn, FrameOut, LipsyncStream, Repainted, face_of
from latentsync.media.pixels.picture import Picture
from latentsync.media.video.write import VideoWriter

OnFrame = Callable[[int], None]  # called with the number of finished frames of the output
READ, REPAINT, PASTE, WRITE = "read", "repaint", "paste", "write"  # the pipeline stages
AHEAD_BYTES = 1 << 30  # limit of the queue of frames before the networks, and of that after them
# Frames between two calls that return freed memory to the system: decoders, frames and encoders free a few hundred MB.
FREE_EVERY = 16
WRITE_BEHIND = 4  # finished frames waiting for the encoder, which has a queue of its own


class Renderer:
    """Pass 2 of one job: samples and writes the output, one segment at a time."""

    def __init__(self, job: LipsyncJob, plan: FacePlan, sampler: WindowSampler, whisper: WhisperFeatures):
        self.job, self.plan, self.sampler = job, plan, sampler
        self.num_frames, self.stride = sampler.models.num_frames, job.source.stride
        self.timeline = job.timeline
        # the plan's matrices are for square pixels; stored pixels may not be square
        self.matrices = rescaled(plan.matrices, job.info.square_scale).astype(np.float32)
        _, form = job.format.encoding(job.format.segment_suffix)
        self.read_pictures = partial(job.source.pictures, form)
        self.audio = audio_windows(whisper.track(job.waveform), job.waveform, sampler.settings)
        self.lip_weights = job.lip_weights(sampler.settings.silence)
        self.segment_of_frame = segment_of_frames(plan.segment, job.timeline, self.lip_weights)
        overlap = sampler.settings.overlap
        fresh = (self.num_frames - overlap) * self.stride
        self.output_segments = plan_encoded_segments(
            self.segment_of_frame, job.encoded, round(OUTPUT_SEGMENT_SEC * job.source.rate), fresh, overlap
        )
        choice = reference_choice(sampler.settings.reference, plan, self.num_frames, self.stride)
        self.references = ReferenceLatents(choice, self._encode_reference)
        sampler.latent_cache = LatentCache(self.timeline.order[self.segment_of_frame != NOT_EDITED])
        self.frames = sum(map(len, job.encoded))  # of the output, that are encoded
        self.written = 0

    def write_segments(
        self, indices: Iterable[int], folder: JobFolder, on_frame: OnFrame, overlapped: bool = True
    ) -> None:
        """Sample output segments and write them into the job's folder; `indices` is iterated lazily.

        `on_frame` is called in this thread, and may raise to stop everything. Without `overlapped` everything runs in this
        thread, one frame after the other, with the same bytes.
        """
        self.written = self._finished(folder)
        stream = self._stream(lambda done, total: on_frame(self.written))
        frames = self._read(indices, stream.group_frames)
        if not overlapped:
            self._write(self._pasted(stream, self._repainted(stream, frames)), folder, on_frame)
            return
        read, repaint, paste, write = map(self.sampler.stopwatch.stage_timer, (READ, REPAINT, PASTE, WRITE))
        capacity = self._capacity(stream.group_frames)

        def write_all(pasted: Iterator[tuple[int, FrameOut]]) -> None:
            self._write(pasted, folder)

        def paste_all(repainted: Iterator[tuple[int, Repainted]]) -> None:
            for done in self._pasted(stream, repainted):
                put_pasted(done)

        with (
            run_ahead(frames, capacity, read, repaint) as ready,
            run_behind(write_all, WRITE_BEHIND, paste, write) as put_pasted,
            run_behind(paste_all, capacity, repaint, paste) as put_repainted,
            repaint.running(),
        ):
            for done in self._repainted(stream, ready):
                put_repainted(done)
                on_frame(self.written)
        on_frame(self.written)

    def _stream(self, on_step: OnStep) -> LipsyncStream:
        overlap = self.sampler.settings.overlap
        return LipsyncStream(self.sampler, self.audio, self.references, self.stride, overlap, on_step)

    def _capacity(self, group_frames: int) -> int:
        """Capacity of the queues before and after the networks, in frames; halved if a video played backwards is read in pieces."""
        frame_bytes = 3 * self.job.info.width * self.job.info.height
        wanted = group_frames // 2 if (np.diff(self.timeline.order) < 0).any() else group_frames
        return max(1, min(wanted, AHEAD_BYTES // frame_bytes))

    def _read(self, indices: Iterable[int], held: int) -> Generator[tuple[int, FrameIn], None, None]:
        """Input frames of each segment, faces already warped, each with the segment's index."""
        for index in indices:
            segment = self.output_segments[index]
            shown = frames_in_order(self._piece, self.timeline.order[segment.warm_start : segment.stop], held)
            for place, picture in enumerate(self.sampler.stopwatch.each("read", shown), segment.warm_start):
                yield index, self._frame_in(place, picture)

    def _piece(self, start: int, stop: int) -> Iterator[Picture]:
        """Source frames start ... stop - 1. Before, memory freed by the decoder of the previous piece is returned to the system."""
        return_freed_memory()
        return self.read_pictures(start, stop)

    def _repainted(
        self, stream: LipsyncStream, frames: Iterator[tuple[int, FrameIn]]
    ) -> Iterator[tuple[int, Repainted]]:
        """The frames of each segment with their new faces; warm-up frames are left out."""

        def finished(items: Iterator[tuple[int, FrameIn]]) -> Iterator[Repainted]:
            for _, item in items:
                yield from stream.repaint(item)
            yield from stream.rest()

        for index, items in groupby(frames, itemgetter(0)):
            segment = self.output_segments[index]
            for done in islice(finished(items), segment.start - segment.warm_start, None):
                yield index, done

    def _pasted(
        self, stream: LipsyncStream, repainted: Iterator[tuple[int, Repainted]]
    ) -> Iterator[tuple[int, FrameOut]]:
        return ((index, stream.paste(done)) for index, done in repainted)

    def _write(
        self, pasted: Iterator[tuple[int, FrameOut]], folder: JobFolder, on_frame: OnFrame = lambda done: None
    ) -> None:
        for index, frames in groupby(pasted, itemgetter(0)):
            self._write_segment(index, (frame for _, frame in frames), folder, on_frame)

    def _write_segment(self, index: int, frames: Iterator[FrameOut], folder: JobFolder, on_frame: OnFrame) -> None:
        """Write one output segment and its facts into the job's folder."""
        segment, ticks = self.output_segments[index], self.timeline.ticks
        facts: list[Fact] = []
        with self.sampler.stopwatch.ending("write", VideoWriter(folder.segment_path(index), self.job.format)) as writer:
            for frame, done in zip(range(segment.start, segment.stop), frames, strict=True):
                with self.sampler.stopwatch("write"):
                    duration = int(ticks[frame + 1] - ticks[frame])
                    writer.write_picture(done.picture, int(ticks[frame] - ticks[segment.start]), duration)
                if done.passed or done.retried:
                    facts.append((frame, done.passed, done.retried))
                self.written += 1
                on_frame(self.written)
                if self.written % FREE_EVERY == 0:
                    return_freed_memory()
            folder.save_facts(index, facts)
        return_freed_memory()
        self.written = self._finished(folder)  # other processes may have written segments too

    def _finished(self, folder: JobFolder) -> int:
        """Frames of the output segments that are complete."""
        missing = folder.missing_segments(len(self.output_segments))
        return self.frames - sum(len(self.output_segments[index]) for index in missing)

    def _frame_in(self, index: int, picture: Picture) -> FrameIn:
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
