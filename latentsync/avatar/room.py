"""What stands behind a person: a room, out of focus."""

import cv2
import numpy as np

from latentsync.avatar.mesh import Floats, Numbers
from latentsync.avatar.raster import linear

MARGIN = 0.12  # of the frame's larger side, on each side, for the camera's movement


def paint_room(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """A blurred room in linear light, [h + 2m, w + 2m, 3], where m is `margin_px(size)`; `size` is (h, w)."""
    m = margin_px(size)
    h, w = size[0] + 2 * m, size[1] + 2 * m
    picture = _walls(h, w, rng)
    for index in rng.permutation(len(THINGS))[: int(rng.integers(1, 4))]:
        THINGS[index](picture, rng)
    if rng.random() < 0.5:
        floor = int(h * rng.uniform(0.72, 0.95))
        picture[floor:] *= rng.uniform(0.45, 0.85)
    blurred = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.008, 0.028) * max(size)))
    return linear(np.clip(blurred, 2, 250))


def _walls(h: int, w: int, rng: np.random.Generator) -> Floats:
    """Two walls that meet in a corner, with uneven light: sRGB [h, w, 3]."""
    wall = rng.uniform(60, 215) * (1 + rng.uniform(-0.16, 0.16, 3))
    picture = np.empty((h, w, 3), np.float32)
    x, y = np.linspace(0, 1, w, dtype=np.float32), np.linspace(0, 1, h, dtype=np.float32)[:, None]
    light = 1 + rng.uniform(-0.35, 0.35) * (x - 0.5) + rng.uniform(-0.3, 0.1) * (y - 0.5)
    picture[:] = light[..., None] * wall
    corner = rng.uniform(-0.2, 1.2)
    picture *= np.where(x > corner, rng.uniform(0.78, 1.15), 1.0)[None, :, None]
    return picture


def margin_px(size: tuple[int, int]) -> int:
    """Width of the border by which a room is larger than a frame of this size."""
    return round(MARGIN * max(size))


def _box(picture: Floats, left: float, top: float, right: float, bottom: float, colour: Numbers) -> None:
    h, w = picture.shape[:2]
    picture[max(0, int(top * h)) : max(0, int(bottom * h)), max(0, int(left * w)) : max(0, int(right * w))] = colour


def _any(rng: np.random.Generator, low: float = 25, high: float = 225) -> Numbers:
    grey = rng.uniform(low, high)
    return np.clip(grey + rng.normal(0, 34, 3), 5, 245)


def _window(picture: Floats, rng: np.random.Generator) -> None:
    left, top = rng.uniform(-0.1, 0.75), rng.uniform(-0.1, 0.25)
    wide, high = rng.uniform(0.2, 0.4), rng.uniform(0.35, 0.65)
    frame = _any(rng, 60, 240)
    _box(picture, left, top, left + wide, top + high, frame)
    bright = rng.uniform(185, 250) * np.array([0.94, 0.98, 1.0])
    panes = int(rng.integers(1, 4))
    for pane in range(panes):
        a = left + wide * (pane + 0.08) / panes
        right, bottom = a + 0.84 * wide / panes, top + high - 0.02
        _box(picture, a, top + 0.02, right, bottom, bright)
        outside = bright * rng.uniform(0.5, 0.9) * np.array([0.85, 1.0, 0.85])
        _box(picture, a, top + 0.6 * high, right, bottom, outside)


def _shelf(picture: Floats, rng: np.random.Generator) -> None:
    left, wide = rng.uniform(-0.15, 0.7), rng.uniform(0.25, 0.5)
    wood = rng.uniform(50, 170) * np.array([1.0, 0.78, 0.58])
    for top in np.arange(rng.uniform(0.0, 0.15), 0.85, rng.uniform(0.2, 0.3)):
        x = left
        while x < left + wide:
            thick, high = rng.uniform(0.012, 0.035), rng.uniform(0.10, 0.17)
            _box(picture, x, top + 0.18 - high, x + thick, top + 0.18, _any(rng))
            x += thick + (rng.uniform(0.0, 0.06) if rng.random() < 0.15 else 0.0)
        _box(picture, left, top + 0.18, left + wide, top + 0.205, wood)


def _frame(picture: Floats, rng: np.random.Generator) -> None:
    left, top = rng.uniform(0.0, 0.8), rng.uniform(0.05, 0.4)
    wide, high = rng.uniform(0.1, 0.25), rng.uniform(0.12, 0.3)
    _box(picture, left, top, left + wide, top + high, _any(rng, 10, 90))
    _box(picture, left + 0.012, top + 0.012, left + wide - 0.012, top + high - 0.012, _any(rng, 90, 235))
    _box(picture, left + 0.25 * wide, top + 0.3 * high, left + 0.75 * wide, top + 0.7 * high, _any(rng))


def _plant(picture: Floats, rng: np.random.Generator) -> None:
    h, w = picture.shape[:2]
    x, y = rng.uniform(0, 1) * w, rng.uniform(0.4, 0.8) * h
    for _ in range(int(rng.integers(14, 40))):
        turn, reach = rng.uniform(-np.pi, 0), rng.uniform(0.05, 0.24) * h
        tip = (int(x + reach * np.cos(turn)), int(y + reach * np.sin(turn)))
        green = [float(v) for v in rng.uniform(40, 130) * np.array([0.45, 0.9, 0.40])]
        leaf = (max(2, int(0.05 * h)), max(1, int(0.014 * h)))
        cv2.ellipse(picture, tip, leaf, float(np.degrees(turn)), 0, 360, green, cv2.FILLED)


def _lamp(picture: Floats, rng: np.random.Generator) -> None:
    h, w = picture.shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    cx, cy, reach = rng.uniform(0, 1) * w, rng.uniform(0.05, 0.5) * h, rng.uniform(0.10, 0.25) * h
    glow = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * reach**2))[..., None]
    picture += glow * rng.uniform(60, 140) * np.array([1.0, 0.85, 0.6], np.float32)
    shade = [float(v) for v in rng.uniform(190, 250) * np.array([1.0, 0.93, 0.75])]
    axes = (max(2, int(0.05 * h)), max(2, int(0.06 * h)))
    cv2.ellipse(picture, (int(cx), int(cy)), axes, 0, 0, 360, shade, cv2.FILLED)


THINGS = (_window, _shelf, _frame, _plant, _lamp)
