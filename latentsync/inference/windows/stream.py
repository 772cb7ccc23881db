"""Frames in, frames with new lips out: what files, streams and previews are all made of.

Consecutive frames of a segment are gathered into groups. A group is sampled as `stride` windows, each of which sees the mouth at
about the model's 25 frames a second: at 50 a second every other frame belongs to the first window, the others to the second.
Frames that are not edited are passed on untouched and never share a window with others. With an overlap, the last frames of a
group are sampled once more with the next one and cross-faded.

Legend: f frames, r face resolution in pixels.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.whisper_features import FeatureTrack
from latentsync.diffusion.solvers import OnStep
from latentsync.face.align import FloatArray, FrameArray, crop_size, invert_matrix, sampled_region, warp_face
from latentsync.face.paste import Patch
from latentsync.inference.faces.plan import NOT_EDITED
from latentsync.inference.settings import LastWindow
from latentsync.inference.windows.sampler import NewFaces, Window, WindowSampler
from latentsync.media.pixels.picture import Picture
from latentsync.timebase import MODEL_FPS, WHISPER_ROW_HZ


# The aligned face of a picture, and a picture with a new face: no more of it becomes RGB than that takes.
def face_of(picture: Picture, matrix: FloatArray, resolution: int) -> FrameArray:
    """The aligned face, uint8 r r 3, along a matrix [2, 3] of `align_matrix`, rescaled to the picture's pixels."""
    part = sampled_region(invert_matrix(matrix), crop_size(resolution), picture.height_width)
    return warp_face(picture.rgb_part(part), matrix, resolution)


def with_face(
    picture: Picture, face: torch.Tensor, original: torch.Tensor, matrix: FloatArray, opacity: float
) -> Picture:
    """The picture with `face` [3, r, r] pasted where `original` was, see `paste_face`; all other pixels stay as they are stored."""
    patch = Patch.of(picture.height_width, face, matrix, original)
    if patch is None or opacity == 0:
        return picture
    return picture.edited(patch.region, lambda frame: patch.blend_into(frame, opacity))


UNCHANGED = "unchanged"  # action of a frame whose new face equals the old one or lies outside of the picture
TIME_SLACK_SEC = 1e-6  # so that a time that was rounded down belongs to its own row


@dataclass(frozen=True)
class FrameIn:
    """A frame on its way in: what is heard with it, and where its face is."""

    picture: Picture
    time_sec: float  # in the sound
    source: int  # its number in the source
    segment: int = NOT_EDITED  # frames of one segment are edited together
    matrix: FloatArray | None = None  # [2, 3] from the picture's own pixels to the crop; needed in a segment
    weight: float = 1.0  # of the new lips, 0 ... 1
    face: FrameArray | None = None  # the aligned face, uint8 r r 3, where it is warped already

    def warped(self, resolution: int) -> FrameArray:
        """The aligned face."""
        return face_of(self.picture, _matrix(self), resolution) if self.face is None else self.face


@dataclass(frozen=True)
class AlignedFace:
    """What a window takes of a frame: the aligned `face`, uint8 r r 3, when it is shown in the sound, its number in the source."""

    face: FrameArray
    time_sec: float
    source: int


@dataclass(frozen=True)
class FrameOut:
    """A frame on its way out; `passed` says why it was passed through although it was to be edited."""

    picture: Picture
    edited: bool  # whether the picture was changed
    passed: str | None = None
    retried: bool = False

    @property
    def frame(self) -> FrameArray:
        """In RGB, uint8 h w 3."""
        return self.picture.rgb()


@dataclass(frozen=True)
class Repainted:
    """A frame with its new face, not pasted yet; without one it is passed on as it is."""

    item: FrameIn
    new: NewFaces | None = None  # one face


def stride_of(fps: float) -> int:
    """Frames from one frame of a window to the next, so that a window sees about 25 of them a second."""
    return max(1, round(fps / MODEL_FPS))


@dataclass
class LipsyncStream:
    """Push frames in order, receive them in order, some pushes later; `flush` gives the rest.

    At most `group_frames` frames are held. `references` gives reference latents for source frames, None for themselves.
    """

    sampler: WindowSampler
    features: FeatureTrack
    references: Callable[[Sequence[int]], Tensor | None]
    stride: int = 1
    overlap: int = 0  # frames of a window that the next one samples again
    on_step: OnStep = lambda done, total: None
    _held: list[FrameIn] = field(default_factory=list)
    _tail: list[NewFaces] = field(default_factory=list)  # of the first held frames, one a frame
    _before: deque[AlignedFace] = field(default_factory=deque)  # frames of this segment that came before the held ones

    def __post_init__(self) -> None:
        check_overlap(self.overlap, self.sampler.models.num_frames)
        self._before = deque(maxlen=(self.sampler.models.num_frames - 1) * self.stride)

    @property
    def group_frames(self) -> int:
        """Frames that are sampled together: a window for each of `stride`, as often as memory allows."""
        rounds = max(1, self.sampler.memory.windows // self.stride)
        fresh = self.sampler.models.num_frames - self.overlap
        return self.stride * (rounds * fresh + self.overlap)

    def push(self, item: FrameIn) -> list[FrameOut]:
        """Take the next frame; returns the frames that are finished, oldest first."""
        return [self.paste(done) for done in self.repaint(item)]

    def flush(self) -> list[FrameOut]:
        """Finish what is held: at the end."""
        return [self.paste(done) for done in self.rest()]

    def repaint(self, item: FrameIn) -> list[Repainted]:
        """The first half of `push`: the frames whose faces are finished. The other half is `paste`, in any thread."""
        done = self.rest() if self._held and self._held[-1].segment != item.segment else []
        if item.segment == NOT_EDITED:
            return [*done, Repainted(item)]
        assert item.matrix is not None, "a frame of a segment has a face"
        self._held.append(item)
        return done + self._advance() if len(self._held) == self.group_frames else done

    def rest(self) -> list[Repainted]:
        """The faces of what is held: at the end, and before frames that do not belong to the ones before them."""
        faces = self._tail if len(self._held) == len(self._tail) else self._new_faces(self._held)
        done = list(map(Repainted, self._held, faces))
        self._held, self._tail = [], []
        self._before.clear()
        return done

    def paste(self, done: Repainted) -> FrameOut:
        """A frame with its new face in it."""
        item, new = done.item, done.new
        if new is None:
            return FrameOut(item.picture, edited=False)
        if new.rejection is not None:
            return FrameOut(item.picture, False, f"unusable result ({new.rejection})", new.retried)
        with self.sampler.stopwatch("paste"):
            picture = with_face(item.picture, new.faces[0], new.originals[0], _matrix(item), item.weight)
        edited = picture is not item.picture
        return FrameOut(picture, edited, None if edited else UNCHANGED, new.retried)

    def _advance(self) -> list[Repainted]:
        """Repaint a full group; its last frames stay for the next one where windows overlap."""
        faces = self._new_faces(self._held)
        finished = len(self._held) - self.overlap * self.stride
        done = list(map(Repainted, self._held[:finished], faces[:finished]))
        self._before.extend(map(self._aligned, self._held[:finished]))
        self._held, self._tail = self._held[finished:], faces[finished:]
        return done

    def _new_faces(self, items: list[FrameIn]) -> list[NewFaces]:
        """New faces, one entry (of one frame) for every item."""
        aligned = [*self._before, *map(self._aligned, items)]
        before, last_window = len(self._before), self.sampler.settings.last_window
        plans = windows_of(len(items), self.sampler.models.num_frames, self.stride, self.overlap, before, last_window)
        windows = [self._window([aligned[before + index] for index in plan.frames]) for plan in plans]
        results = self.sampler.sample(windows, self.on_step)
        faces: list[NewFaces | None] = [*self._tail, *(None for _ in items[len(self._tail) :])]
        for plan, result in zip(plans, results, strict=True):
            for place, at in enumerate(plan.kept):
                new = replace(result, faces=result.faces[at : at + 1], originals=result.originals[at : at + 1])
                index = plan.frames[at]
                faces[index] = self._faded(faces[index], new, place)
        assert all(face is not None for face in faces), "windows cover the group"
        return faces  # type: ignore[return-value]

    def _aligned(self, item: FrameIn) -> AlignedFace:
        with self.sampler.stopwatch("align"):
            return AlignedFace(item.warped(self.sampler.models.resolution), item.time_sec, item.source)

    def _faded(self, old: NewFaces | None, new: NewFaces, place: int) -> NewFaces:
        """The face of a frame that was sampled before, on its way from the old window's to the new one's."""
        if old is None or old.rejection:
            return new
        if new.rejection:
            return old
        return replace(new, faces=torch.lerp(old.faces, new.faces, (place + 1) / (self.overlap + 1)))

    def _window(self, frames: list[AlignedFace]) -> Window:
        with self.sampler.stopwatch("listen"):
            rows = [int((frame.time_sec + TIME_SLACK_SEC) * WHISPER_ROW_HZ) for frame in frames]
            audio = self.features.windows(rows, fps=WHISPER_ROW_HZ)  # f s d
        sources = [frame.source for frame in frames]
        return Window(np.stack([frame.face for frame in frames]), audio, self.references(sources), sources)


def check_overlap(overlap: int, num_frames: int) -> None:
    """Raise ValueError unless windows of `num_frames` frames get on while they share `overlap` of them."""
    if not 0 <= overlap < num_frames:
        raise ValueError(f"overlap is {overlap}: choose 0 to {num_frames - 1} frames.")


@dataclass(frozen=True)
class WindowPlan:
    """The `frames` that are sampled together, by their index in the group (below 0: before it), and which of them are `kept`,
    by their place in the window."""

    frames: list[int]
    kept: range


def windows_of(
    count: int,
    num_frames: int,
    stride: int,
    overlap: int = 0,
    before: int = 0,
    last_window: LastWindow = "shift",
) -> list[WindowPlan]:
    """The windows of `count` consecutive frames of a segment, `stride` apart, after `before` frames of the same segment.

    Windows of the same phase share `overlap` frames; the frames that are kept cover everything. `last_window` says how the one
    is filled that has fewer than `num_frames` frames, see `InferenceSettings`.
    """
    plans = []
    for phase in range(min(stride, count)):
        frames = list(range(phase, count, stride))
        earlier = list(range(phase - stride, -before - 1, -stride))[::-1]  # the nearest last
        for start in range(0, max(1, len(frames) - overlap), num_frames - overlap):
            window = frames[start : start + num_frames]
            plans.append(filled(window, [*earlier, *frames[:start]], num_frames, last_window))
    return plans


def filled(window: list[int], earlier: list[int], num_frames: int, last_window: LastWindow) -> WindowPlan:
    """A window of at most `num_frames` frames after `earlier` ones, filled as `last_window` says."""
    if last_window == "shorten":
        return WindowPlan(window, range(len(window)))
    context = earlier[max(0, len(earlier) + len(window) - num_frames) :]
    frames = [*context, *window]
    return WindowPlan(frames + frames[-1:] * (num_frames - len(frames)), range(len(context), len(frames)))


def _matrix(item: FrameIn) -> FloatArray:
    assert item.matrix is not None
    return item.matrix
