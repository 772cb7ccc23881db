"""Hair, brows, lashes and beard as strands that grow on the head's grid."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from latentsync.avatar.head import COLUMNS, Grid, Head
from latentsync.avatar.identity import Identity
from latentsync.avatar.mesh import Floats, Numbers, bell
from latentsync.avatar.raster import linear

HAIRS = 5200  # strands of the head at most
SEGMENTS = 11
# The lower edge of the hair, in cm, at angles in radians from the middle of the face.
HAIR_EDGE = ([0, 0.35, 0.75, 1.05, 1.25, 1.5, 1.75, 2.1, 3.2], [6.4, 6.5, 6.0, 3.6, 1.6, -0.8, 0.6, -6.5, -8.5])
THICKNESS = {
    "bald": 0.0,
    "short": 0.35,
    "side": 0.6,
    "long": 0.7,
    "bun": 0.45,
    "curly": 1.2,
}  # cm, of the hair above the head
DENSITY = {"short": 0.9, "side": 1.0, "long": 1.0, "bun": 0.8, "curly": 0.8}  # share of HAIRS
UP, FORWARD, RIGHT = np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([1, 0, 0])


@dataclass(frozen=True)
class Strands:
    """Polylines that grow on vertices: `offsets` [s, p, 3] in cm from the vertex (`row`, `column`), in the axes of the head.

    `colours` [s, 3] linear; `widths` [s, p] in cm; `shade` [s, p]: brightness, lower where other hair covers it.
    """

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    offsets: Floats
    colours: Floats
    widths: Floats
    shade: Floats


def hairline(head: Head) -> Floats:
    """Where hair grows on the head, [r, c] in [0, 1] (0 everywhere for a bald head)."""
    person, grid = head.identity, head.grid
    x, y = grid.points[..., 0], grid.points[..., 1]
    if person.hair_style == "bald":
        return np.zeros_like(y)
    turn = np.broadcast_to(np.abs(grid.angle), y.shape)
    lower = np.interp(turn, *HAIR_EDGE) + 0.5 * person.age * bell((turn - 0.5) / 0.3)
    if person.hair_style == "side":
        lower = lower + 0.12 * x * bell(turn / 0.9)
    return np.clip((y - lower) / 0.7 + 0.5, 0, 1).astype(np.float32)


def cap_height(head: Head) -> Floats:
    """Thickness of the hair above the head, in cm, [r, c]."""
    person = head.identity
    y = head.grid.points[..., 1]
    rise = np.clip((y - 2) / 7, 0, 1) if person.hair_style in ("short", "side") else 1.0
    thick = hairline(head) * THICKNESS[person.hair_style]
    return (thick * (0.7 + 0.8 * person.hair_volume) * (0.35 + 0.65 * rise)).astype(np.float32)


def grow_hair(head: Head, outward: Floats, rng: np.random.Generator) -> Strands | None:
    """The hair of the head; `outward` [r, c, 3] are the head's normals. None if it is bald."""
    person, points = head.identity, head.grid.points
    mask = hairline(head)
    if not mask.any():
        return None
    chance = mask * _cell_areas(points) * (0.4 + np.clip(points[..., 2] + 6, 0, 8) / 8)
    row, column = _sample(chance, int(HAIRS * DENSITY[person.hair_style]), rng)
    root, lift = points[row, column], cap_height(head)[row, column][:, None]
    path = _comb(person, root, outward[row, column], lift, rng)
    over_face = (path[..., 2] > 6.5) & (path[..., 1] < 5.0) & (np.abs(path[..., 0]) < 6.2)
    free = ~over_face.any(1)
    root, row, column, path = root[free], row[free], column[free], path[free]
    colours = _tones(person, len(root), rng)
    t = np.linspace(0, 1, SEGMENTS + 1)
    shade = np.broadcast_to(0.55 + 0.6 * t, path.shape[:2]) * rng.uniform(0.75, 1.15, (len(root), 1))
    widths = 0.075 * np.broadcast_to(1 - 0.55 * t**2, shade.shape)
    offsets = path - root[:, None]
    return Strands(row, column, *(v.astype(np.float32) for v in (offsets, colours, widths, shade)))


def _cell_areas(points: Floats) -> Floats:
    """Area of the head's surface at each vertex, [r, c] in cm²."""
    across, up = (np.linalg.norm(np.gradient(points, axis=axis), axis=-1) for axis in (1, 0))
    return np.asarray(across * up)


def _sample(chance: Numbers, count: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of `count` random vertices, with a chance [r, c] of each."""
    flat = chance.ravel()
    row, column = np.unravel_index(rng.choice(flat.size, count, p=flat / flat.sum()), chance.shape)
    return row, column


def _comb(person: Identity, root: Floats, out: Floats, lift: Floats, rng: np.random.Generator) -> Floats:
    """Points of each strand [s, SEGMENTS + 1, 3]: combed in the direction of the style, outside of the head."""
    n, style = len(root), person.hair_style
    comb, length, gravity = _style(person, root, rng)
    comb = comb + rng.normal(0, 0.16, (n, 3))
    path = np.empty((n, SEGMENTS + 1, 3), np.float32)
    path[:, 0] = root
    path[:, 1] = root + out * (lift + rng.uniform(0.02, 0.25, (n, 1)))
    direction: Numbers = out * (0.15 if style in ("long", "side", "bun") else 0.4) + comb
    curl = rng.uniform(0, 2 * np.pi, n)
    wave = {"curly": 0.55, "long": 0.05 + 0.12 * person.hair_volume}.get(style, 0.03)
    step = (length / SEGMENTS)[:, None]
    for p in range(1, SEGMENTS):
        here = path[:, p]
        direction = _above_head(direction - gravity * UP, here)
        swirl = np.stack([np.cos(curl + 1.4 * p), np.sin(curl + 1.4 * p), np.cos(1.3 * curl + p)], 1)
        moved = here + step * (direction + wave * swirl)
        path[:, p + 1] = _off_the_face(moved) if style == "long" else moved
    return path


def _style(person: Identity, root: Floats, rng: np.random.Generator) -> tuple[Numbers, Numbers, float]:
    """Direction [n, 3] in which hair is combed, its length [n] in cm, and how strongly it hangs down."""
    n, volume = len(root), 0.7 + person.hair_volume
    x, y = root[:, 0], root[:, 1]
    if person.hair_style == "short":
        comb = 0.8 * FORWARD * (y > 4)[:, None] - 0.6 * UP + 0.4 * np.sign(x)[:, None] * RIGHT
        return comb, rng.uniform(0.5, 1.2, n) * volume, 0.10
    if person.hair_style == "side":
        sideways = np.where(x > -2.2, 1.0, -1.0)[:, None] * RIGHT
        return 1.2 * sideways - 0.25 * FORWARD, np.where(y < 2, 1.2, rng.uniform(2.5, 4.5, n)), 0.12
    if person.hair_style == "long":
        parting = np.where(x > -1.5, 1.0, -1.0)[:, None]
        return 0.9 * parting * RIGHT - 0.3 * FORWARD - 0.5 * UP, rng.uniform(8, 23, n), 0.75
    if person.hair_style == "bun":
        return 0.6 * UP - 1.2 * FORWARD, rng.uniform(3, 5, n), 0.0
    return rng.normal(0, 0.8, (n, 3)), rng.uniform(1.5, 3.5, n) * volume, 0.03


def _above_head(direction: Numbers, here: Floats) -> Numbers:
    """Unit directions [n, 3] of hair at some points without their part that goes into the head."""
    normal = here * np.array([1, 0.75, 0.8])
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    inward = np.minimum(0, (direction * normal).sum(1, keepdims=True))
    direction = direction - inward * normal * (here[:, 1:2] > -6)
    return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def _off_the_face(points: Numbers) -> Floats:
    """Push points of long hair to the sides and the back of the face and the neck."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    side = np.where(x >= 0, 1.0, -1.0)
    low = np.clip((5.5 - y) / 3, 0, 1)
    apart = np.interp(y, [-16, -9, -4, 0, 4, 6], [6.2, 6.6, 7.4, 7.7, 6.6, 4.0])
    pushed = np.where(z > 0.5, np.maximum(np.abs(x), apart * low + np.abs(x) * (1 - low)), np.abs(x))
    back = np.where((low > 0.6) & (z > 3.5), 3.5 + 0.3 * (z - 3.5), z)
    return np.stack([side * pushed, y, back], 1).astype(np.float32)


def grow_face(head: Head, outward: Floats, beard: Floats, rng: np.random.Generator) -> Strands:
    """Brows, lashes and, where the person has one, the beard."""
    parts = [*_brows(head, outward, rng), *_lashes(head, rng)]
    if head.identity.beard in ("full", "moustache"):
        parts.append(_beard(head, outward, beard, rng))
    return Strands(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Strands)))


def _part(
    row: NDArray[np.intp], column: NDArray[np.intp], tips: Numbers, bend: Numbers, colours: Floats, width: float
) -> Strands:
    """Short strands of two segments: from the vertex over a bend to the tip, both relative to the vertex."""
    t = np.array([0, 0.5, 1])
    tips = tips.astype(np.float32)
    offsets = (t[:, None] * tips[:, None] + (4 * t * (1 - t))[:, None] * bend[:, None]).astype(np.float32)
    widths = np.broadcast_to(width * (1 - 0.5 * t), offsets.shape[:2]).astype(np.float32)
    shade = np.broadcast_to(0.75 + 0.35 * t, offsets.shape[:2]).astype(np.float32)
    return Strands(row, column, offsets, colours, widths, shade)


def _brows(head: Head, outward: Floats, rng: np.random.Generator) -> list[Strands]:
    person, parts = head.identity, []
    n = int(420 * (0.6 + person.brow_thickness))
    for side in (-1, 1):
        u = rng.uniform(-1, 1, n)  # inner end -1, outer end 1
        thick = person.brow_thickness * np.interp(u, [-1, -0.5, 0.4, 1], [0.75, 1.0, 0.75, 0.2])
        x = side * (person.eye_x + 0.15 + 2.05 * u)
        y = person.brow_y + 0.42 * bell((u - 0.35) / 0.65) - 0.22 + thick * rng.uniform(-0.5, 0.5, n)
        row, column = _nearest(head.grid, x, y, head.grid.eyes_row)
        lean = np.interp(u, [-1, -0.6, 0, 1], [0.15, 0.6, 0.95, 1.0])
        tips = np.stack([side * lean, 0.75 - 0.95 * np.clip(u + 0.6, 0, 1.4) / 1.4, np.zeros(n)], 1)
        tips = tips / np.linalg.norm(tips, axis=1, keepdims=True) * rng.uniform(0.35, 0.6, (n, 1))
        tips = tips + rng.normal(0, 0.05, (n, 3))
        part = _part(row, column, tips, outward[row, column] * 0.08, _brow_tones(person, n, rng), 0.05)
        root = np.stack([x, y], 1) - head.grid.points[row, column, :2]  # the vertex is only the nearest one
        above = np.concatenate([root, np.full((n, 1), 0.06)], 1).astype(np.float32)
        parts.append(replace(part, offsets=part.offsets + above[:, None]))
    return parts


def _lashes(head: Head, rng: np.random.Generator) -> list[Strands]:
    person, parts, n = head.identity, [], 46
    eyes_row = head.grid.eyes_row
    for side in (-1, 1):
        u = rng.uniform(-0.96, 0.98, n)
        x = side * (person.eye_x + u * person.eye_half)
        row, column = _nearest(head.grid, x, np.zeros(n), eyes_row, eyes_row + 1)
        long = 0.16 + 0.14 * person.make_up
        tips = np.stack([side * (0.12 * u + 0.05), long * (0.55 - 0.2 * u**2), np.full(n, 0.28)], 1)
        tips = tips * rng.uniform(0.7, 1.1, (n, 1))
        dark = np.full((n, 3), 0.012, np.float32)
        parts.append(_part(row, column, tips, np.array([[0, -0.05, 0.06]], np.float32), dark, 0.035))
    return parts


def _beard(head: Head, outward: Floats, beard: Floats, rng: np.random.Generator) -> Strands:
    person, points = head.identity, head.grid.points
    n = 4200 if person.beard == "full" else 900
    row, column = _sample(beard * _cell_areas(points), n, rng)
    x, out = points[row, column, 0], outward[row, column]
    long = rng.uniform(0.35, 0.8, (n, 1)) * (0.7 + 0.7 * person.hair_volume)
    down = np.stack([0.25 * np.sign(x) + 0.05 * x, np.full_like(x, -1.0), np.full_like(x, 0.1)], 1)
    tips = (0.45 * out + down / 1.1 + rng.normal(0, 0.25, (n, 3))) * long * 0.8
    return _part(row, column, tips, 0.22 * out * long, _tones(person, n, rng), 0.055)


def _nearest(
    grid: Grid, x: Numbers, y: Numbers, first: int, stop: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The vertex in front, among some rows, nearest to each (x, y) at rest."""
    columns = np.arange(COLUMNS // 2 - 45, COLUMNS // 2 + 46)
    points = grid.points[first:stop, columns]
    flat = points.reshape(-1, 3)
    distance = (flat[None, :, 0] - x[:, None]) ** 2 + (flat[None, :, 1] - y[:, None]) ** 2
    row, column = np.unravel_index(distance.argmin(1), points.shape[:2])
    return row + first, columns[column]


def _tones(person: Identity, n: int, rng: np.random.Generator) -> Floats:
    base = linear(person.hair)
    return (base * rng.normal(1, 0.22, (n, 1)).clip(0.5, 1.7) * np.array([1.0, 0.98, 0.95]) + 0.004).astype(np.float32)


def _brow_tones(person: Identity, n: int, rng: np.random.Generator) -> Floats:
    return np.minimum(_tones(person, n, rng), 0.30 * linear(person.skin)).astype(np.float32)
