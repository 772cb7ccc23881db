"""Frames in, frames with new lips out: used for files, live streams and previews alike.

Consecutive frames of a segment are collected in groups. A group is sampled as `stride` interleaved windows of about the model's
25 frames a second: at 50 a second every other frame belongs to the first window, the others to the second.
Frames that are not edited are passed through untouched and never share a window with others. With an overlap, the last frames of a
group are sampled once more with the next one and cross-faded.

Legend: f frames, r face resolution in pixels.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from latentsync.diffusion.solvers import OnStep
from latentsync.face.align import FloatArray, FrameArray, crop_size, invert_matrix, sampled_region, warp_face
from latentsync.face.outline import kept_around
from latentsync.face.paste import Face, Patch
from latentsync.inference.faces.plan import NOT_EDITED
from latentsync.inference.settings import LastWindow
from latentsync.inference.windows.audio import AudioWindows
from latentsync.inference.windows.finish import NewFaces
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.media.pixels.picture import Picture
from latentsync.timebase import WHISPER_ROW_HZ


# Both functions convert only the part of a picture around the face to RGB.
def face_of(picture: Picture, matrix: FloatArray, resolution: int) -> FrameArray:
    """The aligned face of a picture, uint8 r r 3; `matrix` [2, 3] as of `align_matrix`, from the picture's stored pixels."""
    part = sampled_region(invert_matrix(matrix), crop_size(resolution), picture.height_width)
    return warp_face(picture.rgb_part(part), matrix, resolution)


def with_face(
    picture: Picture,
    face: Face,
    original: Face,
    matrix: FloatArray,
    opacity: float,
    detail: Tensor | None = None,
    visible: FloatArray | None = None,
) -> Picture:
    """The picture with `face` blended over `original`; pixels outside the face keep their stored values."""
    patch = Patch.of(picture.height_width, face, matrix, original, detail, visible)
    if patch is None or opacity == 0:
        return picture
    return picture.edited(patch.region, lambda frame: patch.blend_into(frame, opacity))


UNCHANGED = "unchanged"  # action of a frame whose new face equals the old one or is outside of the picture
TIME_SLACK_SEC = 1e-6  # so that a time that was rounded down keeps its feature row


@dataclass(frozen=True)
class FrameIn:
    """An input frame, its time in the audio, and where its face is."""

    picture: Picture
    time_sec: float  # in the audio
    source: int  # frame number in the source video
    segment: int = NOT_EDITED  # frames of one segment are edited together
    matrix: FloatArray | None = None  # [2, 3] from the picture's stored pixels to the crop; required in a segment
    weight: float = 1.0  # opacity of the new lips, 0 ... 1
    face: FrameArray | None = None  # the aligned face, uint8 r r 3, if already warped
    outline: FloatArray | None = None  # [17, 2] of the lower face, see `latentsync.face.outline`; None: unknown
    visible: FloatArray | None = None  # [r, r] in [0, 1]: 0 where something is in front of the face; None: nothing is

    def warped(self, resolution: int) -> FrameArray:
        """The aligned face."""
        return face_of(self.picture, _matrix(self), resolution) if self.face is None else self.face


@dataclass(frozen=True)
class AlignedFace:
    """A frame of a window: the aligned `face`, uint8 r r 3, its time in the audio, its number in the source video."""

    face: FrameArray
    time_sec: float
    source: int


@dataclass(frozen=True)
class FrameOut:
    """An output frame; `passed` is the reason why a frame that should have been edited was not."""

    picture: Picture
    edited: bool  # whether the picture was changed
    passed: str | None = None
    retried: bool = False

    @property
    def frame(self) -> FrameArray:
        """The picture in RGB, uint8 h w 3."""
        return self.picture.rgb()


@dataclass(frozen=True)
class Repainted:
    """A frame with its new face, not pasted yet; without a new face the frame stays as it is."""

    item: FrameIn
    new: NewFaces | None = None  # one face


@dataclass
class LipsyncStream:
    """Push frames in order and receive them in order, with some delay; `flush` returns the last ones.

    At most `group_frames` frames are held. `references` returns the reference latents for source frames, or None if the frames
    are their own reference.
    """

    sampler: WindowSampler
    audio: AudioWindows
    references: Callable[[Sequence[int]], Tensor | None]
    stride: int = 1
    overlap: int = 0  # frames that two consecutive windows share
    on_step: OnStep = lambda done, total: None
    _held: list[FrameIn] = field(default_factory=list)
    _tail: list[NewFaces] = field(default_factory=list)  # new faces of the first held frames, one a frame
    _before: deque[AlignedFace] = field(default_factory=deque)  # frames of this segment before the held ones

    def __post_init__(self) -> None:
        check_overlap(self.overlap, self.sampler.models.num_frames)
        self._before = deque(maxlen=(self.sampler.models.num_frames - 1) * self.stride)

    @property
    def group_frames(self) -> int:
        """Frames that are sampled together: `stride` interleaved windows, as many times as memory allows."""
        rounds = max(1, self.sampler.memory.windows // self.stride)
        fresh = self.sampler.models.num_frames - self.overlap
        return self.stride * (rounds * fresh + self.overlap)

    def push(self, item: FrameIn) -> list[FrameOut]:
        """Push the next frame; returns the finished frames, oldest first."""
        return [self.paste(done) for done in self.repaint(item)]

    def flush(self) -> list[FrameOut]:
        """Finish all held frames, at the end of the stream."""
        return [self.paste(done) for done in self.rest()]

    def repaint(self, item: FrameIn) -> list[Repainted]:
        """The first half of `push`: frames whose new faces are finished. The second half, `paste`, may run in any thread."""
        done = self.rest() if self._held and self._held[-1].segment != item.segment else []
        if item.segment == NOT_EDITED:
            return [*done, Repainted(item)]
        assert item.matrix is not None, "a frame of a segment has a face"
        self._held.append(item)
        return done + self._advance() if len(self._held) == self.group_frames else done

    def rest(self) -> list[Repainted]:
        """Sample all held frames: at the end, and before a frame of another segment."""
        faces = self._tail if len(self._held) == len(self._tail) else self._new_faces(self._held)
        done = list(map(Repainted, self._held, faces))
        self._held, self._tail = [], []
        self._before.clear()
        return done

    def paste(self, done: Repainted) -> FrameOut:
        """Paste the new face into its frame."""
        item, new = done.item, done.new
        if new is None:
            return FrameOut(item.picture, edited=False)
        if new.rejection is not None:
            return FrameOut(item.picture, False, f"unusable result ({new.rejection})", new.retried)
        with self.sampler.stopwatch("paste"):
            detail = None if new.detail is None else new.detail[0]
            if detail is not None and item.outline is not None:
                detail = kept_around(detail, item.outline)
            faces = new.whole()[0], new.originals[0]
            picture = with_face(item.picture, *faces, _matrix(item), item.weight, detail, item.visible)
        edited = picture is not item.picture
        return FrameOut(picture, edited, None if edited else UNCHANGED, new.retried)

    def _advance(self) -> list[Repainted]:
        """Sample a full group; with an overlap its last frames are kept for the next group."""
        faces = self._new_faces(self._held)
        finished = len(self._held) - self.overlap * self.stride
        done = list(map(Repainted, self._held[:finished], faces[:finished]))
        self._before.extend(map(self._aligned, self._held[:finished]))
        self._held, self._tail = self._held[finished:], faces[finished:]
        return done

    def _new_faces(self, items: list[FrameIn]) -> list[NewFaces]:
        """New faces, one for each item."""
        aligned = [*self._before, *map(self._aligned, items)]
        before, last_window = len(self._before), self.sampler.settings.last_window
        plans = windows_of(len(items), self.sampler.models.num_frames, self.stride, self.overlap, before, last_window)
        windows = [self._window([aligned[before + index] for index in plan.frames]) for plan in plans]
        results = self.sampler.sample(windows, self.on_step)
        faces: list[NewFaces | None] = [*self._tail, *(None for _ in items[len(self._tail) :])]
        for plan, result in zip(plans, results, strict=True):
            for place, at in enumerate(plan.kept):
                new = result.frame(at)
                index = plan.frames[at]
                faces[index] = self._faded(faces[index], new, place)
        assert all(face is not None for face in faces), "windows cover the group"
        return faces  # type: ignore[return-value]

    def _aligned(self, item: FrameIn) -> AlignedFace:
        with self.sampler.stopwatch("align"):
            return AlignedFace(item.warped(self.sampler.models.resolution), item.time_sec, item.source)

    def _faded(self, old: NewFaces | None, new: NewFaces, place: int) -> NewFaces:
        """Cross-fade a frame that two windows share; `place` is its index in the new window's kept frames."""
        if old is None or old.rejection:
            return new
        if new.rejection:
            return old
        return old.faded(new, (place + 1) / (self.overlap + 1))

    def _window(self, frames: list[AlignedFace]) -> Window:
        with self.sampler.stopwatch("listen"):
            rows = [int((frame.time_sec + TIME_SLACK_SEC) * WHISPER_ROW_HZ) for frame in frames]
            audio = self.audio.windows(rows, fps=WHISPER_ROW_HZ)  # f s d
        sources = [frame.source for frame in frames]
        return Window(np.stack([frame.face for frame in frames]), audio, self.references(sources), sources)


def check_overlap(overlap: int, num_frames: int) -> None:
    """Raise ValueError unless 0 <= `overlap` < `num_frames`."""
    if not 0 <= overlap < num_frames:
        raise ValueError(f"overlap is {overlap}: choose 0 to {num_frames - 1} frames.")


@dataclass(frozen=True)
class WindowPlan:
    """One window: the `frames` sampled together, by index in the group (negative before it), and `kept`: the places in the window
    of the frames whose results are used."""

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

    Windows of the same phase share `overlap` frames; the kept frames cover all. For `last_window` see `InferenceSettings`.
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
    """A window of at most `num_frames` frames after `earlier` ones, filled by the policy `last_window`."""
    if last_window == "shorten":
        return WindowPlan(window, range(len(window)))
    context = earlier[max(0, len(earlier) + len(window) - num_frames) :]
    frames = [*context, *window]
    return WindowPlan(frames + frames[-1:] * (num_frames - len(frames)), range(len(context), len(frames)))


def _matrix(item: FrameIn) -> FloatArray:
    assert item.matrix is not None
    return item.matrix
