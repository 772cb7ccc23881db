"""Pass 1: the face of every source frame, kept as six floats a frame; and where to find another moment of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latentsync.face.align import FloatArray, FrameArray, Smoother, align_matrix
from latentsync.face.detect import AlignmentPoints, FaceDetector
from latentsync.inference.timeline import spans

NO_FACE = np.full((2, 3), np.nan, dtype=np.float32)


@dataclass(frozen=True)
class FaceTrack:
    """The face of a whole video: `matrices` [n, 2, 3] as from `align_matrix`, NaN in frames without a face."""

    matrices: FloatArray

    def __len__(self) -> int:
        return len(self.matrices)

    @cached_property
    def has_face(self) -> np.ndarray:
        """bool [n]."""
        return np.asarray(np.isfinite(self.matrices).all(axis=(1, 2)))

    @property
    def face_share(self) -> float:
        """Share of the frames that show a face, 0 ... 1."""
        return float(self.has_face.mean())

    def reference_window(self, frames: Sequence[int], num_frames: int) -> range:
        """`num_frames` frames with a face that do not overlap the source frames from min to max of `frames`.

        Chosen so that it seldom changes: the last window of the run of faces around `frames`; its first one for frames
        that overlap the last; windows of other runs where that run is too short. Where no window is far enough away,
        the farthest one. Shorter than `num_frames` if all runs are. There must be a face in `frames`.
        """
        low, high = min(frames), max(frames)
        runs = sorted(self._runs, key=lambda run: (low not in run, -len(run)))
        candidates = [window for run in runs for window in end_windows(run, num_frames)]

        def gap(window: range) -> int:
            return max(window.start - high, low - window.stop + 1)  # 1 or more: they do not overlap

        far = (window for window in candidates if gap(window) > 0)
        return next(far, max(candidates, key=gap))

    @cached_property
    def _runs(self) -> list[range]:
        return [range(span.start, span.stop) for span in spans(self.has_face.tolist()) if span.has_face]


def end_windows(run: range, num_frames: int) -> list[range]:
    """The last and the first `num_frames` frames of a run."""
    return [run[max(0, len(run) - num_frames) :], run[:num_frames]]


def track_face(
    frames: Iterable[FrameArray], detector: FaceDetector, resolution: int, on_frame: Callable[[int], None]
) -> FaceTrack:
    """Detect and align the face in consecutive frames (uint8 h w 3), one alive at a time.

    A frame without a face ends the smoother's stream; it is no error. `on_frame` is told how many frames are done.
    """
    smoother = Smoother()
    matrices = []
    detector.reset()
    for done, frame in enumerate(frames, 1):
        matrices.append(face_matrix(detector.points(frame), resolution, smoother))
        on_frame(done)
    assert matrices, "a readable video has a frame"
    return FaceTrack(np.stack(matrices))


def face_matrix(found: AlignmentPoints | None, resolution: int, smoother: Smoother) -> FloatArray:
    """The matrix [2, 3] of a frame's face; `NO_FACE` without one and for points that span no face."""
    if found is not None:
        try:
            return align_matrix(found.points, resolution, smoother)
        except ValueError:  # the detector's track has degenerated
            pass
    smoother.reset()
    return NO_FACE
