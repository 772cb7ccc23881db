"""Live streams: frames are pushed one by one, and frames with new lips are returned.

The same windows are sampled as for a file. A file's first pass plans the whole video; here each frame is planned from the frames
around it (the decisions of `latentsync.inference.faces.plan` are local). So it is returned `DELAY_SEC` and up to a group of
windows later. The person with the largest face at the start is edited; another one only after that person was not detected
for longer than `FacePolicy.max_gap_sec`.

The whole audio is needed beforehand, because Whisper normalises its features by the maximum of the whole file.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentsync.audio.speech_activity import at_times
from latentsync.face.align import FrameArray, Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import Face, FaceDetector
from latentsync.face.detection.scenes import SceneCuts
from latentsync.face.detection.tracking import LookBack
from latentsync.inference.faces.plan import NOT_EDITED, FacePlan, FacePolicy, plan_faces
from latentsync.inference.faces.tracks import Detection, FaceTracks, detections_of
from latentsync.inference.settings import InferenceSettings
from latentsync.inference.windows.audio import AudioWindows
from latentsync.inference.windows.sampler import WindowSampler
from latentsync.inference.windows.stream import FrameIn, FrameOut, LipsyncStream
from latentsync.media.pixels.picture import RgbPicture
from latentsync.timebase import stride_of

DELAY_SEC = 1.2  # delay of the plan of a frame: longer than any run of frames on which it depends


class LiveStream:
    """Push frames (uint8 h w 3, RGB, square pixels) of one size at `fps`; `flush` at the end. Both return finished frames.

    If the setting `reference` is not `current`, `reference_frames` must show the same person: at least one frame, preferably a
    whole window at about 25 a second. Raises ValueError if they are missing or show no face, and for a detector whose
    alignment is not that of the models. `lip_weights`: opacity of the new lips by the sound, as of `speech_weights`.
    """

    def __init__(
        self,
        sampler: WindowSampler,
        detector: FaceDetector,
        audio: AudioWindows,
        fps: float,
        policy: FacePolicy | None = None,
        reference_frames: Sequence[FrameArray] = (),
        lip_weights: NDArray[np.float32] | None = None,
    ):
        sampler.models.check_detector(detector)
        self.sampler, self.detector, self.fps, self.policy = sampler, detector, fps, policy or FacePolicy()
        self.lip_weights = np.ones(1, np.float32) if lip_weights is None else lip_weights
        reference = self._reference(sampler.settings, reference_frames)
        stride, overlap = stride_of(fps), sampler.settings.overlap
        self.stream = LipsyncStream(sampler, audio, lambda frames: reference, stride, overlap)
        self.delay = int(np.ceil(DELAY_SEC * fps))  # frames
        self.look_back = LookBack(detector)
        self.cuts, self.smoother = SceneCuts(), Smoother()
        self.detections: deque[Detection] = deque()  # of frames on which later plans may depend
        self.held: deque[FrameArray] = deque()  # frames not planned yet
        self.pushed = self.decided = self.first_number = self.next_number = self.segment = 0
        self.chosen: set[int] = set()  # tracks of the person being edited
        self.last_seen = 0  # frame
        self.last_segment = NOT_EDITED  # segment, in its plan, of the last planned frame

    def push(self, frame: FrameArray) -> list[FrameOut]:
        """Push the next frame; its array must not be modified afterwards."""
        if self.cuts.update(frame):
            self.look_back.reset()
            self.first_number = self.next_number
        for back, _, faces in self.look_back.add(frame):
            self._follow(detections_of(self.pushed - back, self.first_number, faces), is_new=not back)
        self.held.append(frame)
        self.size = (frame.shape[1], frame.shape[0])
        self.pushed += 1
        ready = self.pushed - self.delay - self.decided
        return list(self._decide(ready)) if ready >= self.stream.group_frames else []

    def flush(self) -> list[FrameOut]:
        """Finish all frames."""
        return [*self._decide(len(self.held)), *self.stream.flush()]

    def _follow(self, seen: list[Detection], is_new: bool) -> None:
        """Record the faces of a frame; if it is the new one, choose the person to edit."""
        self.detections.extend(seen)
        if not is_new:
            self.detections = deque(sorted(self.detections, key=lambda detection: detection.frame))
            return
        self.next_number = max([self.next_number, *(detection.track + 1 for detection in seen)])
        if any(detection.track in self.chosen for detection in seen):
            self.last_seen = self.pushed
        elif seen and (not self.chosen or self.pushed - self.last_seen > self.policy.max_gap_sec * self.fps):
            self.chosen.add(max(seen, key=lambda detection: detection.face.face_px).track)
            self.last_seen = self.pushed

    def _decide(self, count: int) -> Iterator[FrameOut]:
        """Push the next `count` frames into the stream, with a plan of the frames around them."""
        if not count:
            return
        first = max(0, self.decided - self.delay)
        while self.detections and self.detections[0].frame < first:
            self.detections.popleft()
        plan = self._plan(first)
        for index in range(self.decided, self.decided + count):
            yield from self.stream.push(self._frame_in(plan, index - first, index))
        self.decided += count

    def _plan(self, first: int) -> FacePlan:
        """The plan of the frames from `first` on."""
        cuts = [cut for cut in self.cuts.cuts if cut > first]
        seen = FaceTracks.of_detections(list(self.detections), first, self.pushed, self.size, cuts)
        times = [index / self.fps for index in range(first, self.pushed + 1)]
        return plan_faces(seen, sorted(self.chosen), self.policy, times, self.sampler.models.resolution)

    def _frame_in(self, plan: FacePlan, place: int, index: int) -> FrameIn:
        """Frame `index`, which has index `place` in the plan; segments are numbered over all plans."""
        segment, before = int(plan.segment[place]), int(plan.segment[place - 1]) if place else NOT_EDITED
        picture, time_sec, resolution = (
            RgbPicture(self.held.popleft()),
            index / self.fps,
            self.sampler.models.resolution,
        )
        if segment != NOT_EDITED and (segment != before or self.last_segment == NOT_EDITED):
            self.segment += 1
            self.smoother.reset()
        self.last_segment = segment
        if segment == NOT_EDITED:
            return FrameIn(picture, time_sec, index)
        matrix = align_matrix(plan.points[place], resolution, self.smoother)
        weight = float(plan.weight[place] * at_times(self.lip_weights, np.array([time_sec]))[0])
        if not weight:
            self.segment += 1
            return FrameIn(picture, time_sec, index)
        outline = plan.outline(place, matrix, resolution)
        return FrameIn(picture, time_sec, index, self.segment, matrix, weight, outline=outline)

    def _reference(self, settings: InferenceSettings, frames: Sequence[FrameArray]) -> Tensor | None:
        """Latents of the reference; None where the frames are their own reference."""
        if settings.reference == "current":
            return None
        smoother, faces = Smoother(), []
        self.detector.reset()
        for frame in islice(frames, self.sampler.models.num_frames):
            found: Face | None = self.detector.points(frame)
            if found is not None:
                resolution = self.sampler.models.resolution
                faces.append(warp_face(frame, align_matrix(found.points, resolution, smoother), resolution))
        if not faces:
            raise ValueError(
                f"the reference is {settings.reference!r}, but no frame with a face is given for it: pass"
                " reference_frames of the person, or choose the reference 'current'."
            )
        return self.sampler.encode_window(np.stack(faces))
