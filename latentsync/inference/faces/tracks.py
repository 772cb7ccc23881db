"""Pass 1: detect and track all faces of a video. A few dozen numbers are kept per face and frame, and a thumbnail per track.

Array legend: n frames, m detected faces (of all frames, in order), k stored appearance descriptors, p stored thumbnails.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.appearance import appearance_descriptor, thumbnail
from latentsync.face.detection.detector import Face, FaceDetector
from latentsync.face.detection.scenes import SceneCuts
from latentsync.face.detection.tracking import LookBack
from latentsync.face.lower_face import LENGTH, LowerFaces, lower_face_descriptor
from latentsync.face.outline import JAW_POINTS
from latentsync.inference.timing import Stopwatch
from latentsync.media.video.mux import atomic_output

IntArray = NDArray[np.int32]
MAX_FACES = 16  # largest faces kept per frame
DESCRIPTOR_STRIDE = 5  # frames between two descriptors of a track, at first
MAX_DESCRIPTORS = 8  # of a track: when there are more, every second one is dropped and the stride doubles
MAX_THUMBNAILS = 256  # kept, those of the longest tracks
STORED_NAMES = {"descriptors": "looks", "descriptor_track": "look_track"}  # names in the file, where they differ
BETTER = 1.1  # a new thumbnail replaces the old one if its quality is this many times higher


@dataclass(frozen=True)
class Detection:
    """One face in one frame, with the number of its track over the whole video."""

    frame: int
    track: int
    face: Face


@dataclass(frozen=True)
class FaceTracks:
    """All faces of a video. Track numbers are unique in the video; a track never crosses a cut."""

    frame_count: int
    size: tuple[int, int]  # w, h of the frames
    cuts: IntArray  # [c] frames that begin a new shot, without frame 0
    frame: IntArray  # [m] frame of each face, rising
    track: IntArray  # [m]
    points: FloatArray  # [m, 3, 2] alignment points in frame pixels
    box: FloatArray  # [m, 4] x0, y0, x1, y1
    score: FloatArray  # [m] 0..1
    yaw: FloatArray  # [m] degrees, 0 where unknown
    pitch: FloatArray  # [m] as above, of heads that look down
    opening: FloatArray  # [m] mouth opening over the distance of the eyes, NaN where unknown
    jaw: FloatArray  # [m, 17, 2] jaw line in frame pixels, see `latentsync.face.outline`; NaN where unknown
    lower_face: LowerFaces  # [m, LENGTH], see `latentsync.face.lower_face`; 0 where unknown
    descriptors: NDArray[np.float16]  # [k, d], see `latentsync.face.appearance`
    descriptor_track: IntArray  # [k]
    thumbnails: NDArray[np.uint8]  # [p, 96, 96, 3] of the best frame of a track
    thumbnail_track: IntArray  # [p]

    @property
    def shot(self) -> IntArray:
        """int32 [n]: the number of the shot of every frame."""
        starts = np.zeros(self.frame_count, np.int32)
        starts[self.cuts] = 1
        return np.cumsum(starts, dtype=np.int32)

    @classmethod
    def of_detections(
        cls, detections: Sequence[Detection], start: int, stop: int, size: tuple[int, int], cuts: Sequence[int]
    ) -> "FaceTracks":
        """Frames start ... stop - 1, renumbered from 0, without descriptors, lower faces and thumbnails."""
        empty: dict[str, NDArray] = {
            "descriptors": np.zeros((0, 0), np.float16),
            "descriptor_track": np.zeros(0, np.int32),
        }
        empty["thumbnails"] = np.zeros((0, 96, 96, 3), np.uint8)
        empty["thumbnail_track"] = np.zeros(0, np.int32)
        shifted = [replace(detection, frame=detection.frame - start) for detection in detections]
        shot_starts = np.array([cut - start for cut in cuts], np.int32)
        return cls(stop - start, size, shot_starts, **packed(shifted), **empty)

    def save(self, path: Path) -> None:
        """Write to `path` (NPZ without pickled objects), atomically."""
        arrays = {STORED_NAMES.get(f.name, f.name): np.asarray(getattr(self, f.name)) for f in fields(self)}
        with atomic_output(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "FaceTracks":
        """Read a file of `save`; ValueError if it is damaged or of another kind."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = {f.name: stored[STORED_NAMES.get(f.name, f.name)] for f in fields(cls)}
        except (OSError, KeyError, ValueError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a file of face tracks ({error}): delete it, then the faces are detected again."
            ) from error
        w, h = (int(side) for side in values.pop("size"))
        return cls(frame_count=int(values.pop("frame_count")), size=(w, h), **values)


ROW = np.dtype(
    [
        ("frame", "i4"),
        ("track", "i4"),
        ("points", "f4", (3, 2)),
        ("box", "f4", 4),
        ("score", "f4"),
        ("yaw", "f4"),
        ("pitch", "f4"),
        ("opening", "f4"),
        ("jaw", "f4", (JAW_POINTS, 2)),
        ("lower_face", "i1", LENGTH),
    ]
)
PER_FACE = tuple(ROW.names or ())
ROWS = 4096  # allocated together: small arrays allocated between frames would fragment the heap


def track_faces(
    frames: Iterable[FrameArray],
    detector: FaceDetector,
    on_frame: Callable[[int], None] = lambda done: None,
    stopwatch: Stopwatch | None = None,
    parts: Sequence[range] = (),
    frame_count: int = 0,
) -> FaceTracks:
    """Detect and track all faces in consecutive frames (uint8 h w 3, RGB); few frames are in memory at a time.

    Tracks end at cuts, and begin where the face can first be seen (`LookBack`). `on_frame` is called with the number of frames
    done. With `parts` the frames are these of a video of `frame_count` frames; tracks end with each part.

    Raises ValueError if there is no frame.
    """
    cuts, builder, stopwatch = SceneCuts(), FaceTracksBuilder(), stopwatch or Stopwatch()
    look_back = LookBack(detector)
    starts = {part.start for part in parts if part.start > 0}
    numbers = chain.from_iterable(parts) if parts else count()
    done = 0
    for done, (index, frame) in enumerate(zip(numbers, frames, strict=False), start=1):
        with stopwatch("detect"):
            if index in starts:
                cuts.skip_to(index)
            if cuts.update(frame) or index in starts:
                look_back.reset()
                builder.end_tracks()
            for back, shown, faces in look_back.add(frame):
                builder.add(index - back, shown, faces)
        on_frame(done)
    if not done:
        raise ValueError("the video has no frames: choose another one.")
    cuts.skip_to(max(cuts.count, frame_count))
    return builder.finish(cuts)


@dataclass
class TrackAppearance:
    """Descriptors and the best thumbnail of one track."""

    frames: int = 0
    stride: int = DESCRIPTOR_STRIDE
    descriptors: list[FloatArray] = field(default_factory=list)
    quality: float = 0.0
    thumbnail: FrameArray | None = None

    def add(self, frame: FrameArray, face: Face) -> None:
        """Add the next frame of the track; a descriptor is computed every `stride` frames."""
        if self.frames % self.stride == 0:
            picture = thumbnail(frame, face.points)
            self.descriptors.append(appearance_descriptor(picture))
            quality = face.face_px * face.score * max(0.1, float(np.cos(np.radians(face.yaw_deg))))
            if self.thumbnail is None or quality > BETTER * self.quality:
                self.quality, self.thumbnail = quality, picture
        if len(self.descriptors) > MAX_DESCRIPTORS:
            self.descriptors, self.stride = self.descriptors[::2], 2 * self.stride
        self.frames += 1


class FaceTracksBuilder:
    """Collects the detections of a video frame by frame."""

    def __init__(self) -> None:
        self.parts = [np.empty(ROWS, ROW)]
        self.filled = 0  # rows of the last part
        self.tracks: dict[int, TrackAppearance] = {}
        self.first_number = 0
        self.size = (0, 0)

    def end_tracks(self) -> None:
        """Call it when the detector was reset and numbers its tracks from 0 again."""
        self.first_number = max(self.tracks, default=-1) + 1

    def add(self, index: int, frame: FrameArray, faces: list[Face]) -> None:
        """Add faces of frame `index`; frames come in any order."""
        self.size = (frame.shape[1], frame.shape[0])
        for detection in detections_of(index, self.first_number, faces):
            self.tracks.setdefault(detection.track, TrackAppearance()).add(frame, detection.face)
            self._append(row_of(detection, lower_face_descriptor(frame, detection.face.points)))

    def _append(self, row: tuple) -> None:
        if self.filled == ROWS:
            self._drop_thumbnails()
            self.parts.append(np.empty(ROWS, ROW))
            self.filled = 0
        self.parts[-1][self.filled] = row
        self.filled += 1

    def _drop_thumbnails(self) -> None:
        """Drop the thumbnails of the shortest tracks if there are more than `MAX_THUMBNAILS`."""
        pictured = sorted((t for t in self.tracks.values() if t.thumbnail is not None), key=lambda t: -t.frames)
        for track in pictured[MAX_THUMBNAILS:]:
            track.thumbnail = None

    def finish(self, cuts: SceneCuts) -> FaceTracks:
        """All detections as arrays."""
        self._drop_thumbnails()
        numbers = sorted(self.tracks)
        descriptors = [(number, descriptor) for number in numbers for descriptor in self.tracks[number].descriptors]
        pictures = [(n, picture) for n in numbers if (picture := self.tracks[n].thumbnail) is not None]
        width = len(descriptors[0][1]) if descriptors else 0
        rows = np.concatenate([*self.parts[:-1], self.parts[-1][: self.filled]])
        return FaceTracks(
            frame_count=cuts.count,
            size=self.size,
            cuts=np.array(cuts.cuts, np.int32),
            **columns(rows[np.argsort(rows["frame"], kind="stable")]),
            descriptors=np.array([descriptor for _, descriptor in descriptors], np.float16).reshape(
                len(descriptors), width
            ),
            descriptor_track=np.array([number for number, _ in descriptors], np.int32),
            thumbnails=np.array([picture for _, picture in pictures], np.uint8).reshape(-1, 96, 96, 3),
            thumbnail_track=np.array([number for number, _ in pictures], np.int32),
        )


def detections_of(index: int, first_number: int, faces: Sequence[Face]) -> list[Detection]:
    """The largest valid faces of frame `index`; `first_number` is added to the track numbers of the detector."""
    usable = [face for face in faces if np.isfinite(face.points).all() and np.ptp(face.points, axis=0).max() > 1]
    largest = sorted(usable, key=lambda face: -face.face_px)[:MAX_FACES]
    return [Detection(index, first_number + face.track, face) for face in largest]


def row_of(detection: Detection, lower_face: LowerFaces | int = 0) -> tuple:
    """A detection as a row of `ROW`."""
    face = detection.face
    pose = face.yaw_deg, face.pitch_deg
    jaw = np.nan if face.landmarks is None else face.landmarks[:JAW_POINTS]
    return detection.frame, detection.track, face.points, face.box, face.score, *pose, face.opening, jaw, lower_face


def packed(detections: Sequence[Detection]) -> dict[str, NDArray]:
    """Detections as the arrays of `FaceTracks`."""
    return columns(np.array([row_of(detection) for detection in detections], ROW))


def columns(rows: NDArray) -> dict[str, NDArray]:
    """Rows of `ROW` as one array per field."""
    return {name: np.ascontiguousarray(rows[name]) for name in PER_FACE}
