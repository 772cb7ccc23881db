"""The skin's texture: colour, gloss and relief at every place of the head's grid, painted once for a clip."""

from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.avatar.head import Grid, Head
from latentsync.avatar.identity import Identity
from latentsync.avatar.mesh import Floats, Numbers, bell, bump
from latentsync.avatar.raster import linear

TEXELS = 4  # per cell of the grid, in both directions
BEARD_SHADOW = {
    "none": 0.0,
    "stubble": 0.45,
    "moustache": 0.35,
    "full": 0.45,
}  # how much of its colour the skin takes on


@dataclass(frozen=True)
class Skin:
    """`texture` [h, w, 6] as in `raster.draw`; `beard` [r, c]: density of the beard at each vertex, in [0, 1]."""

    texture: Floats
    beard: Floats


@dataclass(frozen=True)
class Place:
    """Where each texel lies on the head at rest, [h, w] each."""

    x: Floats
    y: Floats
    d: Floats  # height above the lips' line
    front: Floats  # 1 in front, 0 behind


def paint_skin(head: Head, rng: np.random.Generator) -> Skin:
    """Paint the skin of a head."""
    person, grid = head.identity, head.grid
    r, c = grid.points.shape[:2]
    size = (c * TEXELS, r * TEXELS)
    at = _places(head, size)
    x, y = at.x, at.y
    colour = np.broadcast_to(linear(person.skin), (*x.shape, 3)).copy()
    colour *= (1 + 0.05 * _noise(x.shape, 14, rng) + 0.03 * _noise(x.shape, 3, rng))[..., None]
    gloss = 0.16 + 0.22 * person.oiliness + 0.10 * bump(x, y - 4, 3.5, 2.5)
    gloss = gloss + 0.20 * bump(x, y + person.nose_length - 0.8, 0.9, 1.6)
    relief = 0.0028 * _noise(x.shape, 1.0, rng) + 0.0050 * _noise(x.shape, 2.2, rng)
    relief = relief * np.clip((y + 13) / 2, 0, 1)
    _redden(colour, person, at)
    _wrinkle(relief, person, at)
    _spots(colour, person, at, rng)
    _eyes(colour, person, at)
    beard = _beard_density(head, at)
    _stubble(colour, person, beard, rng)
    _lips(colour, gloss, relief, head, at, rng)
    texture = np.empty((*x.shape, 6), np.float32)
    texture[..., :3], texture[..., 3] = np.clip(colour, 0, 1), np.clip(gloss, 0, 1)
    texture[..., 4], texture[..., 5] = _slopes(relief, grid, size)
    return Skin(texture, np.asarray(cv2.resize(beard, (c, r), interpolation=cv2.INTER_AREA), np.float32))


def _places(head: Head, size: tuple[int, int]) -> Place:
    grid = head.grid
    x, y, z = (_enlarge(grid.points[..., i], size) for i in range(3))
    level = _enlarge(np.broadcast_to(grid.level, grid.points.shape[:2]), size)
    return Place(x, y, level - head.identity.mouth_y, np.clip(z / 3, 0, 1))


def occlusion(head: Head) -> Floats:
    """Share of ambient light that reaches each vertex at rest, [r, c]."""
    person, grid = head.identity, head.grid
    x, y, z = (grid.points[..., i] for i in range(3))
    d = np.broadcast_to(grid.level - person.mouth_y, y.shape)
    rows = np.arange(len(y))[:, None]
    closed = np.zeros_like(y)
    for side in (-1, 1):
        eye = x - side * person.eye_x
        closed += 0.42 * bump(eye + side * 1.35, y - 0.35, 0.75, 0.9) + 0.22 * bump(eye, y - 0.95, 1.5, 0.42)
        closed += 0.22 * bump(x - side * (person.nose_width + 0.1), y + person.nose_length - 0.4, 0.3, 0.6)
        closed += 0.22 * bump(x - side * (person.mouth_half + 0.1), d, 0.35, 0.3)
    closed += 0.45 * bump(x, y + person.nose_length + 0.12, person.nose_width * 0.8, 0.30)
    between_lips = 0.40 * bell(d / 0.10) * (np.abs(x) < person.mouth_half)
    closed += 0.30 * bump(x, d + person.lip_lower + 0.45, 1.5, 0.4) + between_lips
    throat = np.clip((grid.chin_row + 1 - rows) / 6, 0, 1)
    closed += throat * (0.42 * np.clip((y + 19) / 7, 0, 1) + 0.12)
    closed += np.where(z < 0, 0.25 * np.clip(-z / 5, 0, 1), 0)
    return np.clip(1 - closed, 0.15, 1).astype(np.float32)


def _redden(colour: Floats, person: Identity, at: Place) -> None:
    x, y = at.x, at.y
    red = np.zeros_like(x)
    for side in (-1, 1):
        red += 0.8 * bump(x - side * 4.3, y + 3.6, 1.9, 1.5)
        red += 0.5 * bump(x - side * (person.nose_width - 0.5), y + person.nose_length - 0.5, 0.7, 0.6)
    red += 0.7 * bump(x, y + person.nose_length - 0.7, 0.9, 0.8) + 0.35 * bump(x, y - person.chin_y - 1.2, 1.6, 1.0)
    red *= at.front * (0.25 + 0.75 * person.redness)
    colour *= 1 - red[..., None] * np.array([-0.02, 0.20, 0.17], np.float32)
    forehead = at.front[..., None] * bump(x, y - 5, 5, 3)[..., None]
    colour *= 1 + forehead * np.array([0.02, 0.03, 0.0], np.float32)


def _wrinkle(relief: Floats, person: Identity, at: Place) -> None:
    x, y = at.x, at.y
    lines = np.zeros_like(x)
    for height in (4.1, 5.0, 5.9):
        lines += bump(x, y - height - 0.12 * np.cos(x * 0.9), 3.6, 0.09)
    for side in (-1, 1):
        eye = x - side * person.eye_x
        for slope in (-0.5, 0.0, 0.5):
            away = side * x - person.eye_x - person.eye_half
            lines += np.where((away > 0) & (away < 1.6), bell((y - slope * away) / 0.06), 0)
        lines += 0.8 * bump(x - side * 0.55, y - person.brow_y, 0.08, 0.7)
        lines += 0.9 * bump(eye, y + 1.15 + 0.1 * eye**2, 1.3, 0.09)
    relief -= 0.035 * max(0.0, person.age - 0.15) * lines


def _spots(colour: Floats, person: Identity, at: Place, rng: np.random.Generator) -> None:
    """Freckles and a few moles."""
    freckles = np.clip(_noise(at.x.shape, 1.3, rng) - 1.4, 0, 1) * person.freckles * bell((at.y + 2.5) / 3)
    colour *= 1 - 0.5 * freckles[..., None] * np.array([0.5, 0.9, 1.0], np.float32)
    for _ in range(int(rng.integers(0, 4))):
        x, y, size = rng.uniform(-6, 6), rng.uniform(-9, 6), rng.uniform(0.07, 0.14)
        colour *= 1 - 0.6 * bump(at.x - x, at.y - y, size, size)[..., None]


def _eyes(colour: Floats, person: Identity, at: Place) -> None:
    """Darker skin around the eyes, shadow of make-up, the dark edge of the lids, and the nostrils."""
    x, y, front = at.x, at.y, at.front
    shade, rim = np.zeros_like(x), np.zeros_like(x)
    for side in (-1, 1):
        eye = x - side * person.eye_x
        shade += (0.16 + 0.10 * person.age) * bump(eye, y + 0.9, 1.6, 0.7)
        shade += (0.10 + 0.45 * person.make_up) * bump(eye, y - 0.75, 1.6, 0.6)
        rim += np.where(np.abs(eye / person.eye_half) < 1.12, bell(y / (0.07 + 0.06 * person.make_up)), 0)
        nostril = bump(x - side * 0.55, y + person.nose_length + 0.02, 0.34, 0.17)
        colour *= 1 - 0.82 * (front * nostril)[..., None]
    colour *= 1 - (front * shade)[..., None] * np.array([0.7, 0.9, 0.8], np.float32)
    colour *= 1 - 0.75 * (front * np.clip(rim, 0, 1))[..., None]


def _beard_density(head: Head, at: Place) -> Floats:
    """Where hair grows on the lower face, [h, w] in [0, 1]."""
    person, d = head.identity, at.d
    upper, lower = head.lip_heights(at.x)
    aside = np.abs(at.x)
    lip = (d < upper + 0.12) & (d > -lower - 0.12) & (aside < person.mouth_half + 0.2)
    moustache = np.clip(1.4 * bump(at.x, (d - upper - 0.55), person.mouth_half * 1.15, 0.55), 0, 1)
    edge = person.mouth_y + 0.6 + 0.10 * aside**1.75  # upper edge on the cheeks
    cheeks = np.clip((edge - at.y) / 0.9, 0, 1) * np.clip((aside - person.mouth_half - 0.2) / 0.8, 0, 1)
    chin = np.clip((-lower - 0.35 - d) / 0.5, 0, 1) * np.clip(1.15 - aside / 9, 0, 1)
    jaw = np.maximum(cheeks, chin) * np.clip((at.y - person.chin_y + 1.9) / 1.2, 0, 1)
    density = moustache if person.beard == "moustache" else np.maximum(moustache, jaw)
    return np.where(lip, 0, density * at.front).astype(np.float32)


def _stubble(colour: Floats, person: Identity, beard: Floats, rng: np.random.Generator) -> None:
    """The skin between the hairs of a beard, which takes on their colour."""
    share = beard * BEARD_SHADOW[person.beard] * (1 + 0.35 * _noise(beard.shape, 0.8, rng))
    hair = np.maximum(linear(person.hair), 0.12 * linear(person.skin))
    colour += share[..., None].clip(0, 0.9) * (hair - colour)


def _lips(colour: Floats, gloss: Floats, relief: Floats, head: Head, at: Place, rng: np.random.Generator) -> None:
    person, d, aside = head.identity, at.d, np.abs(at.x)
    upper, lower = head.lip_heights(at.x)
    reach = np.where(d >= 0, upper, lower)
    share = np.clip((reach - np.abs(d)) / 0.09 + 0.5, 0, 1) * (aside < person.mouth_half * 1.02) * at.front
    red = linear(person.lips)
    if person.make_up:
        red = red + 0.75 * person.make_up * (np.array([0.42, 0.04, 0.07], np.float32) - red)
    inner = 1 - 0.45 * bell(d / 0.16)
    folds = np.asarray(cv2.GaussianBlur(rng.standard_normal(d.shape).astype(np.float32), (0, 0), sigmaX=1.1, sigmaY=7))
    folds = folds / folds.std()
    tone = red * (inner * np.where(d >= 0, 0.84, 1.0) * (1 + 0.06 * folds))[..., None]
    colour += share[..., None] * (tone - colour)
    gloss += share * (0.30 + 0.25 * person.make_up)
    relief += share * (0.008 * folds)
    border = bell((np.abs(d) - reach - 0.06) / 0.09) * (aside < person.mouth_half) * at.front
    colour *= 1 + 0.06 * border[..., None]


def _slopes(relief: Floats, grid: Grid, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Slopes of the relief along the columns and rows of the texture."""
    along = np.linalg.norm(np.gradient(grid.points, axis=1), axis=-1) / TEXELS
    up = np.linalg.norm(np.gradient(grid.points, axis=0), axis=-1) / TEXELS
    across, upwards = (_enlarge(np.maximum(v, 0.012), size) for v in (along, up))
    du, dv = np.gradient(relief, axis=1) / across, np.gradient(relief, axis=0) / upwards
    return np.clip(du, -0.6, 0.6).astype(np.float32), np.clip(dv, -0.6, 0.6).astype(np.float32)


def _enlarge(values: Numbers, size: tuple[int, int]) -> Floats:
    """Values [r, c] at the texels of a texture of (width, height)."""
    enlarged = cv2.resize(np.ascontiguousarray(values, np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.float32)


def _noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Floats:
    """Smooth noise with unit standard deviation."""
    step = max(1, int(sigma / 2))
    small = rng.standard_normal((shape[0] // step + 1, shape[1] // step + 1)).astype(np.float32)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / step)
    noise = cv2.resize(blurred, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(noise / noise.std(), np.float32)
