"""A drawn clip of ten seconds with cases that are difficult for lip-sync software, and the truth of every frame.

A speaker fades in, covers the mouth with a hand, is briefly hidden, leaves for two seconds, and is replaced by a cutaway. Then a
second person walks past in front, and the speaker appears in another room at another size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from latentsync.avatar.head import EYE_RADIUS, EYE_Z, Expression
from latentsync.avatar.identity import random_identity
from latentsync.avatar.occluders import Occluder, patches
from latentsync.avatar.raster import linear, to_srgb
from latentsync.avatar.render import Pose, Renderer
from latentsync.face.detection.detector import Box

FPS, WIDTH, HEIGHT = 25, 640, 360
PX_PER_CM = 12.1  # of a head at scale 1: its eyes are about 83 px apart
EYES_ABOVE = 21  # px from a head's place up to its eyes, at scale 1
SPEAKER_SEED, SECOND_SEED = 12, 9
EVENTS = (  # event, and the first frame after it
    ("fade-in", 12),
    ("talk", 50),
    ("hand", 62),
    ("talk", 70),
    ("hidden briefly", 76),
    ("talk", 90),
    ("away", 140),
    ("talk", 155),
    ("cutaway", 175),
    ("second person", 232),
    ("other room", 250),
)
FRAMES = EVENTS[-1][1]
CUTS = (155, 175, 232)


@dataclass(frozen=True)
class TortureFrame:
    """One frame, uint8 [360, 640, 3] RGB, and its content."""

    frame: np.ndarray
    event: str
    speaker: Box | None  # the face from brows to chin; None if it is not in the frame
    second: Box | None
    speaker_is_free: bool  # the speaker's face is visible; a hand over the mouth is allowed


@dataclass(frozen=True)
class Place:
    """Position in the frame, in px, of a point between a head's eyes and its nose, and the head's scale."""

    x: float
    y: float
    scale: float


@lru_cache(maxsize=4)
def renderer_of(seed: int) -> Renderer:
    """Draws the person of a seed."""
    return Renderer(random_identity(np.random.default_rng(seed)), patches())


@lru_cache(maxsize=1)
def hand_of(seed: int) -> Occluder:
    """A hand before the mouth of a person, in every frame."""
    hand = Occluder("hand", renderer_of(seed).head, FRAMES, np.random.default_rng(seed))
    hand.shown[:] = 1
    return hand


@lru_cache(maxsize=4)
def room(seed: int) -> np.ndarray:
    """A blurred room: float32 [360, 640, 3]."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH, 3), rng.uniform(60, 180, 3), np.float32)
    for _ in range(12):
        x, y, w, h = (int(v) for v in rng.integers(0, WIDTH, 4))
        cv2.rectangle(picture, (x, y // 2), (x + w // 3, y // 2 + h // 3), rng.uniform(20, 235, 3).tolist(), cv2.FILLED)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 7), np.float32)


def draw_head(picture: np.ndarray, seed: int, place: Place, index: int, has_hand: bool = False) -> Box:
    """Draw a speaking head, and a hand before its mouth, into a float32 picture, in place; returns the face's box."""
    renderer = renderer_of(seed)
    aperture = 0.5 + 0.5 * np.sin(index * 1.1 + seed)
    blink = float(index % 60 in (30, 31, 32))
    expression = Expression(float(aperture), 0.2, 0.5, 0.2, 0.0, blink, 0.2, (0.0, 0.0))
    x, y = place.x + 4 * np.sin(index / 9 + seed), place.y + 3 * np.cos(index / 11)
    centre = ((x + 0.5) / WIDTH, (y - EYES_ABOVE * place.scale + 0.5) / HEIGHT)
    pose = Pose(px_per_cm=PX_PER_CM * place.scale, size=(HEIGHT, WIDTH), centre=centre)
    held = hand_of(seed).held(index, pose) if has_hand else None
    person, alpha, _ = renderer.draw(expression, pose, held)
    shown = alpha > 0
    behind = (1 - alpha[shown])[:, None] * linear(picture[shown])
    picture[shown] = to_srgb(person[shown] + behind)
    eye_x, eye_z = renderer.head.identity.eye_x, EYE_Z + EYE_RADIUS
    (left, eye_y, _), (right, _, _) = pose.project(pose.place(np.array([[-eye_x, 0, eye_z], [eye_x, 0, eye_z]])))
    middle, unit = float(left + right) / 2, float(right - left)
    return middle - 1.1 * unit, float(eye_y) - 0.6 * unit, middle + 1.1 * unit, float(eye_y) + 1.9 * unit


def event_at(index: int) -> tuple[str, int]:
    """The event at a frame, and the number of frames since its start."""
    start = 0
    for name, stop in EVENTS:
        if index < stop:
            return name, index - start
        start = stop
    raise IndexError(index)


def make_frame(index: int) -> TortureFrame:
    """Frame `index` of the clip."""
    event, since = event_at(index)
    picture = room({"cutaway": 21, "other room": 22}.get(event, 20)).copy()
    speaker = second = None
    if event not in ("away", "cutaway"):
        place = Place(330, 205, 0.95) if event == "other room" else Place(220, 190, 0.7)
        speaker = draw_head(picture, SPEAKER_SEED, place, index, has_hand=event == "hand")
    if event == "hidden briefly":
        cover(picture, speaker, 0.45, (0.9, 0.8), (90, 110, 90))
    if event == "second person":
        place = Place(500 if since < 12 else 500 - 11 * (since - 12), 200, 0.72)
        second = draw_head(picture, SECOND_SEED, place, index)
        second = second if second[2] > 30 else None
    if event == "fade-in":
        picture *= index / 12
    noise = np.random.default_rng(index).normal(0, 1.5, picture.shape)
    frame = np.clip(picture + noise, 0, 255).astype(np.uint8)
    free = speaker is not None and event != "hidden briefly" and (second is None or not touches(speaker, second))
    return TortureFrame(frame, event, speaker, second, free)


def cover(picture: np.ndarray, face: Box | None, down: float, size: tuple[float, float], colour: tuple) -> None:
    """Draw an ellipse over part of a face, in place; `down` and `size` are relative to the face's box."""
    assert face is not None
    w, h = face[2] - face[0], face[3] - face[1]
    middle = (round((face[0] + face[2]) / 2), round(face[1] + down * h))
    axes = (round(w * size[0]), round(h * size[1]))
    cv2.ellipse(picture, middle, axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)


def touches(a: Box, b: Box) -> bool:
    """Whether two boxes overlap."""
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def torture_frames() -> Iterator[TortureFrame]:
    """All frames of the clip."""
    return (make_frame(index) for index in range(FRAMES))
