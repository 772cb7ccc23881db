"""What is drawn besides the skin: eyes, teeth, tongue, lips' inner side, ears, clothes and glasses, as small meshes."""

import cv2
import numpy as np

from latentsync.avatar.hair import Strands
from latentsync.avatar.head import COLUMNS, EYE_RADIUS, EYE_Z, Head
from latentsync.avatar.identity import Identity
from latentsync.avatar.mesh import CLOTH, EYE, PATCH, Floats, Mesh, Numbers, bell, grid_mesh
from latentsync.avatar.raster import linear

EYE_SPAN = 1.1  # radians from the middle of an eye's patch to its edge
IRIS, PUPIL = 0.46, 0.18  # radians
RIM_HALF = 2.45  # cm, half the width of a lens of the glasses
# Cross-sections of the shoulders.
TORSO = np.array([
    # y,    half,  front, back
    [-44.0, 20.0,  10.5,  10.0],
    [-34.0, 20.3,  10.5,  10.0],
    [-27.0, 20.4,  10.0,   9.5],
    [-23.5, 19.6,   9.2,   9.0],
    [-21.6, 17.8,   8.3,   8.2],
    [-20.2, 14.6,   7.4,   7.4],
    [-18.9, 10.9,   6.6,   6.9],
    [-17.5,  8.3,   5.9,   6.4],
    [-16.2,  6.5,   4.9,   5.7],
    [-14.0,  4.2,   3.2,   4.6],
])  # fmt: skip


def patches(person: Identity, rng: np.random.Generator) -> Floats:
    """The texture patches side by side, [PATCH, 3 * PATCH, 6]."""
    texture = np.zeros((PATCH, 3 * PATCH, 6), np.float32)
    texture[:, :PATCH, :3], texture[:, :PATCH, 3] = 1, 0.5
    texture[:, PATCH : 2 * PATCH] = _eye_patch(person, rng)
    weave = cv2.GaussianBlur(rng.standard_normal((PATCH, PATCH)).astype(np.float32), (0, 0), 0.8)
    texture[:, 2 * PATCH :, :3] = (1 + 0.05 * weave / weave.std())[..., None]
    texture[:, 2 * PATCH :, 3] = 0.06
    texture[:, 2 * PATCH :, 4] = 0.07 * weave / weave.std()
    texture[:, 2 * PATCH :, 5] = 0.07 * np.roll(weave, 31) / weave.std()
    return texture


def _eye_patch(person: Identity, rng: np.random.Generator) -> Floats:
    v, u = (np.mgrid[0:PATCH, 0:PATCH].astype(np.float32) - (PATCH - 1) / 2) / (PATCH / 2) * EYE_SPAN
    away, turn = np.hypot(u, v), np.arctan2(v, u)
    patch = np.zeros((PATCH, PATCH, 6), np.float32)
    white = np.array([0.50, 0.46, 0.43]) - np.clip(away - 0.5, 0, 1)[..., None] * np.array([0.05, 0.22, 0.22])
    white = white / person.exposure**0.8
    noise = cv2.GaussianBlur(rng.standard_normal((1, 64)), (0, 0), 0.7)[0]
    spokes = np.interp(turn, np.linspace(-np.pi, np.pi, 64), noise)
    level = 1.5 * (0.75 + 0.55 * np.clip((away - PUPIL) / (IRIS - PUPIL), 0, 1)) + 0.5 * spokes
    iris = linear(person.eye) * level[..., None].clip(0.2)
    iris = iris * np.clip((IRIS - away) / 0.07, 0.25, 1)[..., None]
    colour = white + np.clip((IRIS - away) / 0.035 + 0.5, 0, 1)[..., None] * (iris - white)
    colour = colour * (1 - 0.97 * np.clip((PUPIL - away) / 0.03 + 0.5, 0, 1))[..., None]
    patch[..., :3], patch[..., 3] = colour.clip(0, 1), 1.0
    return patch


def eyeball(head: Head, side: int) -> tuple[Mesh, Floats]:
    """An eyeball that looks ahead, around its middle; and the middle [3], to which it is moved after turning."""
    angles = np.linspace(-EYE_SPAN, EYE_SPAN, 25)
    v, u = np.meshgrid(angles, angles, indexing="ij")
    away = np.hypot(u, v) + 1e-9
    points = EYE_RADIUS * np.stack([np.sin(away) * u / away, np.sin(away) * v / away, np.cos(away)], -1)
    bulge = 0.06 * np.exp(-((away / 0.38) ** 4))
    points *= (1 + bulge / EYE_RADIUS)[..., None]
    uv = np.stack([u, v], -1) / EYE_SPAN * (PATCH / 2) * 0.985 + (PATCH - 1) / 2
    openness = np.clip(0.80 - 0.55 * np.clip(points[..., 1] / 0.7, -0.4, 1), 0.2, 1)
    middle = np.array([side * head.identity.eye_x, 0.0, EYE_Z], np.float32)
    return grid_mesh(points, np.ones(3), openness, 0.4, EYE, uv), middle


def eye_socket(head: Head, side: int) -> Mesh:
    """The flesh behind the corners of an eye."""
    u, v = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 5))
    x, row = side * head.identity.eye_x + 1.6 * u, head.grid.points[head.grid.eyes_row]
    front = row[row[:, 2] > 2]
    points = np.stack([x, 0.4 * v, np.interp(x, front[:, 0], front[:, 2]) - 0.45], -1)
    return grid_mesh(points, 0.8 * linear(head.identity.skin) * np.array([0.9, 0.6, 0.6]), 0.4, 0.6)


def upper_teeth(head: Head) -> Mesh:
    """The upper teeth and gums; their edge lies at the line of the lips."""
    return _teeth(head, edge=-0.12, far=1.25, wide=1.95, gums_at=0.85)


def lower_teeth(head: Head) -> Mesh:
    """The lower teeth and gums with the mouth closed; they move with the jaw."""
    return _teeth(head, edge=-0.10, far=-1.1, wide=1.85, gums_at=0.72)


def _teeth(head: Head, edge: float, far: float, wide: float, gums_at: float) -> Mesh:
    """One row of teeth from its edge to its far end, which are heights above the lips' line; gums from `gums_at` on."""
    person, lower = head.identity, far < edge
    angle = np.linspace(-1.0, 1.0, 97)
    across = np.abs(np.sin(np.pi * angle / 0.40))  # 0 between two teeth
    gap = bell(across / 0.22)
    heights = np.linspace(min(far, edge), max(far, edge), 9)
    y = np.broadcast_to(heights[:, None], (9, len(angle))).copy()
    y[-1 if lower else 0] += np.sign(far - edge) * 0.10 * gap
    bulge = 0.06 * (1 - gap) * np.where(np.abs(heights[:, None]) < gums_at, 1, 0.3)
    back = 3.4 * (1 - np.cos(angle)) - bulge + (0.35 if lower else 0.0)
    z = _lips_z(head) - 0.62 - back
    points = np.stack(np.broadcast_arrays(wide * np.sin(angle) * 0.98, person.mouth_y + y, z), -1)
    gums = np.clip((np.abs(heights) - gums_at + 0.12 * gap[0]) / 0.1, 0, 1)[:, None, None]
    tooth = linear(person.teeth)
    tint = tooth * (1 - 0.45 * gap)[None, :, None] + gums * (np.array([0.42, 0.13, 0.13]) - tooth)
    depth = np.clip(1 - 0.85 * (np.abs(angle) / 1.1) ** 1.3, 0.06, 1)
    return grid_mesh(points, tint, np.broadcast_to(0.62 * depth, y.shape), 0.5)


def _lips_z(head: Head) -> np.float32:
    """Depth of the lips' line in the middle of the face at rest, in cm."""
    return np.float32(head.grid.points[head.grid.lips_row, COLUMNS // 2, 2])


def tongue(head: Head) -> Mesh:
    """The tongue at rest behind the lower teeth."""
    u, v = np.meshgrid(np.linspace(-1, 1, 25), np.linspace(0, 1, 17))
    x = 1.75 * u * np.sqrt(1 - 0.55 * (1 - v) ** 2)
    y = head.identity.mouth_y - 0.80 + 0.70 * np.sqrt(v) * (1 - 0.35 * u**2) - 0.12 * bell(u / 0.12)
    z = _lips_z(head) - 1.15 - 2.6 * v**1.5 - 0.5 * u**2
    return grid_mesh(np.stack([x, y, z], -1), np.array([0.40, 0.12, 0.12]), 0.5 * (1 - 0.75 * v), 0.8)


def cavity(head: Head) -> Mesh:
    """The dark back of the mouth."""
    u, v = np.meshgrid(np.linspace(-1, 1, 13), np.linspace(-1, 1, 13))
    points = np.stack([(3.6 + 0.6 * v) * u, head.identity.mouth_y - 0.3 + 1.5 * v, 4.7 - 0.4 * u**2], -1)
    return grid_mesh(points, np.array([0.10, 0.025, 0.025]), 0.12)


def lip_rolls(head: Head, skin: Floats) -> list[Mesh]:
    """The inner sides of the upper and the lower lip of a posed skin [r, c, 3]: they go inwards from the edges of the mouth."""
    person, row = head.identity, head.grid.lips_row
    rest = head.grid.points[row]
    inside = np.flatnonzero((np.abs(rest[:, 0]) < person.mouth_half * 1.05) & (rest[:, 2] > 2))
    inwards = np.array([(0, 0, 0), (0, -0.06, -0.16), (0, 0.02, -0.42), (0, 0.35, -0.85)], np.float32)[:, None]
    upper = skin[row, inside] + inwards
    lower = skin[row - 1, inside] + inwards[::-1] * np.array([1, -1, 1], np.float32)
    colour, openness = 0.8 * linear(person.lips), np.array([[0.75], [0.7], [0.45], [0.2]])
    return [grid_mesh(upper, colour, openness, 0.6), grid_mesh(lower, colour, openness[::-1], 0.6)]


def ear(head: Head, side: int) -> Mesh:
    """An ear: a shell with a rim, a fold and a hollow."""
    grid = head.grid
    turn, rho = np.meshgrid(np.linspace(-np.pi, np.pi, 49), np.linspace(1, 0, 17))
    outline = 1 + 0.10 * np.cos(2 * turn - 0.4) - 0.10 * bell((turn + 2.2) / 0.6)
    tall, wide = 3.15, 1.85
    across, up = rho * outline * wide * np.cos(turn), rho * outline * tall * np.sin(turn)
    across = across + 0.25 * up / tall
    shell = _shell(turn, rho)
    row, column = int(np.argmin(np.abs(grid.level[:, 0] + 1.8))), int(np.argmin(np.abs(grid.angle - 1.62)))
    root = np.array([abs(float(grid.points[row, column, 0])) + 0.35, -1.6, -0.9])
    outwards, upwards, backwards = np.array([0.80, 0, 0.60]), np.array([0, 1, 0]), np.array([0.60, 0, -0.80])
    points = root + across[..., None] * backwards + up[..., None] * upwards + shell[..., None] * outwards
    openness = np.clip(0.85 + 0.5 * (shell - 0.25), 0.25, 1)
    points[..., 0] *= side
    if side < 0:
        points, openness = points[:, ::-1], openness[:, ::-1]
    return grid_mesh(points, linear(head.identity.skin) * np.array([1.0, 0.80, 0.80]), openness, 1.0)


def _shell(turn: Numbers, rho: Numbers) -> Numbers:
    """How far an ear's surface stands out, in cm, at an angle and a share of the way from its middle to its edge."""
    shell = 0.40 * bell((rho - 0.90) / 0.11) + 0.28 * bell((rho - 0.58) / 0.10) * (np.cos(turn) > -0.6)
    shell = shell - 0.55 * bell(rho / 0.33) - 0.35 * np.clip((rho - 0.93) / 0.07, 0, 1)
    lobe = bell((turn + np.pi / 2) / 0.5) * np.clip((rho - 0.45) / 0.3, 0, 1)
    return shell * (1 - lobe) + 0.25 * lobe


def torso(head: Head) -> Mesh:
    """Shoulders in clothes, with skin inside the neckline."""
    person = head.identity
    y = np.concatenate([np.linspace(-44, -25, 10, endpoint=False), np.linspace(-25, -14, 44)])
    half, front, back = (np.interp(y, TORSO[:, 0], TORSO[:, i])[:, None] for i in (1, 2, 3))
    turn = np.linspace(-np.pi, np.pi, 73)
    side, ahead = np.sin(turn), np.cos(turn)
    z = np.where(ahead > 0, front, back) * np.sign(ahead) * np.abs(ahead) ** 0.85
    x = half * np.sign(side) * np.abs(side) ** 0.9 * np.where(y < -16, 1, person.neck_width)[:, None]
    height = np.broadcast_to(y[:, None], x.shape)
    dressed = np.clip((_neckline(person, np.abs(x), z) - height) / 0.25 + 0.5, 0, 1)
    out = 0.35 * dressed
    points = np.stack([x * (1 + out / np.maximum(half, 1)), height, z * (1 + out / 8)], -1)
    folds = 1 - 0.10 * bell((dressed - 0.5) / 0.25)
    skin, cloth = linear(person.skin), linear(person.clothes)
    tint = (skin + dressed[..., None] * (cloth - skin)) * folds[..., None]
    uv = np.stack(np.meshgrid(np.linspace(2, PATCH - 3, 73), np.linspace(2, PATCH - 3, len(y))), -1)
    return grid_mesh(points, tint, np.clip(0.5 + (-15.5 - height) / 8, 0.45, 1), 0.25, CLOTH, uv)


def _neckline(person: Identity, aside: Numbers, z: Numbers) -> Numbers:
    """Height of the clothes' upper edge, in cm, at a distance from the middle and a depth."""
    lines = {"round": -18.6 + 0.04 * aside**2, "v": -22.5 + 0.95 * aside, "collar": -16.2 - 0.25 * aside}
    return np.where(z < 0, -16.6, np.minimum(lines[person.clothes_style], -16.2))


def glasses(head: Head) -> Strands | None:
    """The frame of the glasses as thick strands, or None."""
    person, grid = head.identity, head.grid
    if not person.glasses:
        return None
    t = np.linspace(-1, 1, 41)
    inner = person.eye_x - 2.40
    arch = np.stack([inner * t, 0.35 + 0.25 * (1 - t**2), 9.30 + 0.25 * (1 - t**2)], 1)
    sides = (-1, 1)
    paths = np.stack([*(_rim(person, s) for s in sides), arch, *(_temple(person, s) for s in sides)]).astype(np.float32)
    row, column = grid.eyes_row, COLUMNS // 2
    n, shape = len(paths), paths.shape[:2]
    return Strands(
        row=np.full(n, row),
        column=np.full(n, column),
        offsets=paths - grid.points[row, column],
        colours=np.tile(np.array([0.02, 0.018, 0.018], np.float32), (n, 1)),
        widths=np.full(shape, 0.17, np.float32),
        shade=np.ones(shape, np.float32),
    )


def _rim(person: Identity, side: int) -> Numbers:
    """The rim of a lens, [41, 3]."""
    turn = np.linspace(0, 2 * np.pi, 41)
    right, up = np.cos(turn), np.sin(turn)
    x = side * (person.eye_x + 0.05) + RIM_HALF * np.sign(right) * np.abs(right) ** 0.75
    y = -0.25 + 1.95 * np.sign(up) * np.abs(up) ** 0.75
    return np.stack([x, y, 9.35 - 0.05 * (side * person.eye_x + RIM_HALF * right) ** 2 * 0.6], 1)


def _temple(person: Identity, side: int) -> Numbers:
    """The arm of the glasses from a lens to an ear, [41, 3]."""
    t = np.linspace(0, 1, 41)
    x = side * (person.eye_x + RIM_HALF + (7.6 - person.eye_x - RIM_HALF) * t**0.6)
    return np.stack([x, 0.35 - 0.2 * t, 8.3 - 8.6 * t], 1)
