"""What covers the mouth for a while: a hand, a microphone or a cup in a hand, or a strand of hair.

Each is drawn by the head's renderer, with its light, and comes and goes during a clip. Lengths are in cm. A hand is a left one in
axes of its own: the wrist is the origin, x runs to the thumb, y to the fingers, z out of the back of the hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, NearestNDInterpolator
from scipy.ndimage import gaussian_filter1d

from latentsync.avatar import OccluderKind
from latentsync.avatar.hair import Strands
from latentsync.avatar.head import COLUMNS, Head
from latentsync.avatar.identity import Identity
from latentsync.avatar.mesh import (
    CLOTH,
    GRILLE,
    PATCH,
    PORES,
    WHITE,
    Floats,
    Ints,
    Mesh,
    Numbers,
    Placed,
    bell,
    free_mesh,
    grid_mesh,
    ramp,
    unit,
)
from latentsync.avatar.raster import linear
from latentsync.avatar.render import Held, Pose
from latentsync.timebase import MODEL_FPS

STEP = 0.17  # cm between the samples from which the surface of a hand is made
PALM_BLEND, JOINT_BLEND, ROOT_BLEND = 0.42, 0.07, 0.22  # cm over which the bones' surfaces flow into each other
SLEEVE_FROM, ELBOW = -4.5, -30.0  # along y
TEXELS_PER_CM = 5.0  # of a hand's skin and a sleeve's cloth

# Fingers from the index to the little one: x, y and z of the knuckle, and the lengths of the three bones.
KNUCKLES = np.array([[2.75, 8.9, 0.0], [0.90, 9.25, 0.22], [-0.95, 8.75, 0.12], [-2.65, 7.75, -0.2]])
BONES = np.array([[4.1, 2.5, 2.0], [4.5, 2.9, 2.1], [4.2, 2.7, 2.1], [3.3, 2.0, 1.8]])
# Half the thickness of a finger at its four ends of bones, times the finger's size.
THICKNESS = np.array([0.98, 0.88, 0.76, 0.60])
SIZES = np.array([0.97, 1.0, 0.95, 0.82])
THUMB_ROOT, THUMB_BONES = (2.2, 1.9, -0.7), (4.2, 3.2, 2.5)
THUMB_THICKNESS = np.array([1.35, 1.08, 0.95, 0.72])

# A lock of hair beside the face, and across the mouth: x to its own side, and y.
HANGING = np.array([[5.0, 5.6], [6.6, 1.0], [7.0, -3.5], [7.1, -7.5], [7.3, -11.0], [7.4, -14.0]])
BLOWN = np.array([[5.0, 5.6], [6.5, 1.0], [5.7, -3.6], [2.6, -6.4], [-0.9, -7.7], [-4.3, -8.6]])
ALONG_LOCK = np.linspace(0, 1, 24)

CORNERS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])  # of a cell of samples
EDGES = [(a, b) for a in range(8) for b in range(a) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]


@dataclass(frozen=True)
class Chain:
    """Joints [4, 3] of a finger from its root to its tip, half its thickness there [4], and the direction of its back [3, 3]."""

    joints: Numbers
    radii: Numbers
    backs: Numbers


@dataclass(frozen=True)
class Object:
    """Meshes in the axes of a hand; `contact` [3] is the point that comes to the mouth, `turn` [3, 3] the axes in the room."""

    meshes: list[Mesh]
    contact: Numbers
    turn: Numbers
    before: Numbers  # [3], from the lips to the contact when it covers the mouth
    away: Numbers  # [3], from there to where it is outside of the picture


class Occluder:
    """One occluder of one clip: what it is made of, and where it is in every frame."""

    def __init__(self, kind: OccluderKind, head: Head, frames: int, rng: np.random.Generator):
        self.head = head
        self.shown = _visits(frames, rng)  # [frames]: 0 away ... 1 before the mouth
        self._sway = 0.35 * _slow_noise(frames, 3, rng)
        side = int(rng.choice((-1, 1)))
        self._lock = Lock(head, side, rng) if kind == "hair" else None
        self._object = None if kind == "hair" else _MAKERS[kind](head.identity, side, rng)

    def held(self, frame: int, pose: Pose) -> Held:
        """What is before the face in a frame in which the head has this pose."""
        if self._lock is not None:
            return Held(strands=self._lock.blown(float(self.shown[frame]), self._sway[frame]))
        assert self._object is not None
        thing, away = self._object, 1 - float(self.shown[frame])
        lips = self.head.grid.points[self.head.grid.lips_row, COLUMNS // 2]
        to = pose.place(lips[None])[0] + thing.before + away * thing.away + self._sway[frame]
        turn = thing.turn @ _rotation(0.5 * away, 0.06 * self._sway[frame, 0], 0.06 * self._sway[frame, 1])
        return Held([_moved(mesh, thing.contact, turn, to) for mesh in thing.meshes])


def patches() -> Floats:
    """The texture patches of occluders, [PATCH, 2 * PATCH, 6]: skin of a hand, and the wires of a microphone."""
    rng = np.random.default_rng(0)
    texture = np.zeros((PATCH, 2 * PATCH, 6), np.float32)
    coarse, fine = (cv2.GaussianBlur(rng.standard_normal((PATCH, PATCH)), (0, 0), sigma) for sigma in (5, 0.9))
    skin, wires = texture[:, :PATCH], texture[:, PATCH:]
    skin[..., :3] = (1 + 0.05 * coarse / coarse.std() + 0.03 * fine / fine.std())[..., None]
    skin[..., 3] = 0.20
    skin[..., 4], skin[..., 5] = 0.05 * fine / fine.std(), 0.05 * np.roll(fine, 17) / fine.std()
    v, u = np.mgrid[0:PATCH, 0:PATCH]
    wire = np.maximum(np.cos(2 * np.pi * u / 4), np.cos(2 * np.pi * v / 4))
    wires[..., :3], wires[..., 3] = (0.25 + 0.5 * np.clip(wire, 0, 1))[..., None], 0.7
    return texture


def _moved(mesh: Mesh, contact: Numbers, turn: Numbers, to: Numbers) -> Placed:
    """A mesh, turned about its point of contact, which is moved to a point of the room."""
    points, normals = (mesh.points - contact) @ turn.T + to, mesh.normals @ turn.T
    return Placed(mesh, points.astype(np.float32), normals.astype(np.float32))


# --- hands ---------------------------------------------------------------------------------------------------------


def _hand(person: Identity, chains: list[Chain]) -> list[Mesh]:
    """A hand with the given fingers, the thumb last, and a sleeve."""
    low = np.min([chain.joints.min(0) for chain in chains], 0) - 1.6
    high = np.max([chain.joints.max(0) for chain in chains], 0) + 1.6
    low, high = np.minimum(low, [-4.6, SLEEVE_FROM - 1.5, -2.6]), np.maximum(high, [4.4, 10, 2.0])
    points, triangles = surface(lambda at: _depth(at, chains), low, high, STEP)
    normals = free_mesh(points, triangles, np.ones_like(points), np.ones(len(points))).normals
    around = _depth(points + 0.55 * normals, chains)
    tint = linear(person.skin) * _hand_tint(points, normals, chains)
    uv = np.clip((points[:, :2] - low[:2]) * TEXELS_PER_CM, 1, PATCH - 2)
    openness = np.clip(0.28 + 0.72 * around / 0.55, 0.28, 1)
    return [free_mesh(points, triangles, tint, openness, 1.0, PORES, uv), _sleeve(person)]


def _depth(at: Numbers, chains: list[Chain]) -> Numbers:
    """Distance in cm, roughly, of points [n, 3] from the surface of a hand; below 0 inside."""
    wrist = np.array([[-1.05, -9.0, -0.2], [1.05, -9.0, -0.2], [-0.85, 0.0, 0.0], [0.85, 0.0, 0.0]])
    palm = [_bone(at, wrist[i], wrist[i + 2], 2.0, 1.5) for i in (0, 1)]
    for chain, root in zip(chains, (0.9, 0.3, -0.3, -0.9), strict=False):
        palm.append(_bone(at, np.array([root * 1.1, 0.6, -0.15]), chain.joints[0] - [0, 0, 0.12], 1.25, 1.02))
    thumb = chains[-1]
    palm.append(_bone(at, np.array([1.2, 1.4, -0.7]), thumb.joints[1], 1.25, 1.0))
    palm.append(
        _bone(at, np.array([-1.9, 1.8, -0.7]), np.array([-2.5, 6.2, -0.6]), 1.05, 0.85)
    )  # ball of the little finger
    body = _blended(palm, PALM_BLEND)
    fingers = [
        _blended([_bone(at, *chain.joints[i : i + 2], *chain.radii[i : i + 2]) for i in range(3)], JOINT_BLEND)
        for chain in chains
    ]
    return np.min([_blended([body, finger], ROOT_BLEND) for finger in fingers], 0)


def _bone(at: Numbers, start: Numbers, stop: Numbers, thick: float, thin: float) -> Numbers:
    """Distance of points [n, 3] from a cone with round ends."""
    along = stop - start
    share = np.clip((at - start) @ along / (along @ along), 0, 1)
    return np.linalg.norm(at - start - share[:, None] * along, axis=1) - (thick + share * (thin - thick))


def _blended(distances: list[Numbers], over: float) -> Numbers:
    """The least of some distances, smoothly where they differ by less than `over`."""
    least = np.min(distances, 0)
    return least - over * np.log(sum(np.exp((least - each) / over) for each in distances))


def _hand_tint(points: Floats, normals: Floats, chains: list[Chain]) -> Numbers:
    """How a hand's colour differs from the face's, [n, 3]: redder joints and tips, creases above the joints, nails."""
    tint = np.ones((len(points), 3))
    red, crease = np.array([0.02, 0.16, 0.14]), np.array([0.55, 0.7, 0.7])
    for chain in chains:
        for joint in range(4):
            off = points - chain.joints[joint]
            along = unit(chain.joints[min(joint + 1, 3)] - chain.joints[min(joint, 2)])
            outside = np.clip(normals @ chain.backs[min(joint, 2)], 0, 1)
            near = np.exp(-((np.linalg.norm(off, axis=1) / (1.5 * chain.radii[joint])) ** 4))
            tint *= 1 - (near * (0.9 if joint == 3 else outside * 0.8))[:, None] * red
            if joint in (1, 2):
                lines = sum(bell((off @ along - shift) / 0.10) for shift in (-0.24, 0.0, 0.24))
                tint *= 1 - 0.55 * (near * outside**2 * np.clip(lines, 0, 1))[:, None] * crease
        nail, rim = _nail(points, normals, chain)
        tint = tint + nail[:, None] * (np.array([1.22, 1.02, 1.02]) - tint)
        tint *= 1 - 0.42 * rim[:, None]
    return tint


def _nail(points: Floats, normals: Floats, chain: Chain) -> tuple[Numbers, Numbers]:
    """Where a finger's nail and its edge lie, [n] in [0, 1] each."""
    start, tip, radius, back = chain.joints[2], chain.joints[3], chain.radii[3], chain.backs[2]
    along = unit(tip - start)
    across = np.cross(along, back)
    off = points - tip
    u, v = off @ across / (0.80 * radius), (off @ along + 0.25 * radius) / (1.0 * radius)
    away = (np.abs(u) ** 3 + np.abs(v) ** 3) ** (1 / 3)
    outside = (normals @ back > 0.15) * (np.linalg.norm(off, axis=1) < 2.2 * radius)
    return np.clip((1 - away) / 0.15, 0, 1) * outside, bell((away - 1.05) / 0.16) * outside


def _sleeve(person: Identity) -> Mesh:
    """The sleeve around a forearm."""
    y = np.array([SLEEVE_FROM + 0.25, SLEEVE_FROM, SLEEVE_FROM + 0.1, *np.linspace(SLEEVE_FROM - 0.6, ELBOW, 26)])
    turn = np.linspace(-np.pi, np.pi, 49)
    thick = np.interp(-y, [-SLEEVE_FROM, -ELBOW], [2.75, 5.2])
    thick[:3] -= 0.45, 0.05, -0.05
    folds = 0.16 * np.sin(1.9 * y[:, None] + 1.3 * np.sin(turn + 0.4 * y[:, None])) * np.clip(-y[:, None] / 12, 0, 1)
    radius = thick[:, None] + folds
    points = np.stack(
        [1.25 * radius * np.sin(turn), np.broadcast_to(y[:, None], radius.shape), radius * np.cos(turn)], -1
    )
    points, folds = points[::-1], folds[::-1]
    u, v = np.meshgrid(np.linspace(2, PATCH - 3, len(turn)), np.linspace(2, PATCH - 3, len(y)))
    return grid_mesh(points, linear(person.clothes), 0.85 + 0.9 * folds, 0.25, CLOTH, np.stack([u, v], -1))


def _chain(root: Numbers, lengths: Numbers, angles: Numbers, aside: float, radii: Numbers) -> Chain:
    """A finger bent towards the palm by `angles` [3] at its joints, and turned by `aside` to the thumb, in radians."""
    bent = np.cumsum(angles)
    level = np.array([np.sin(aside), np.cos(aside), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    directions = np.cos(bent)[:, None] * level - np.sin(bent)[:, None] * up
    backs = np.sin(bent)[:, None] * level + np.cos(bent)[:, None] * up
    joints = np.concatenate([root[None], root + np.cumsum(directions * np.asarray(lengths)[:, None], 0)])
    return Chain(joints, radii, backs)


def _flat_hand(rng: np.random.Generator) -> list[Chain]:
    """Fingers that lie loosely side by side."""
    spread = np.array([0.07, 0.015, -0.045, -0.13]) * rng.uniform(0.7, 1.6)
    bend = np.array([0.16, 0.30, 0.18]) * rng.uniform(0.8, 1.3, (4, 1)) + np.array([[0.02], [0.0], [0.04], [0.08]])
    fingers = [_chain(KNUCKLES[i], BONES[i], bend[i], spread[i], SIZES[i] * THICKNESS) for i in range(len(KNUCKLES))]
    thumb = np.array([THUMB_ROOT, (4.35, 5.0, -1.3), (4.95, 7.9, -1.65), (5.1, 10.2, -1.6)])
    return [*fingers, Chain(thumb, THUMB_THICKNESS, np.tile(unit(np.array([0.75, -0.1, 0.65])), (3, 1)))]


def _gripping_hand(radius: float) -> tuple[list[Chain], Numbers]:
    """Fingers around a cylinder of a radius, and the place (y, z) of its axis, which runs along x."""
    around = radius + 0.80
    axis = np.array([7.6, -(radius + 1.12)])
    fingers = []
    for knuckle, bones, size in zip(KNUCKLES, BONES, SIZES, strict=True):
        angles = np.array([2 * (knuckle[1] - axis[0]) + bones[0], bones[0] + bones[1], bones[1] + bones[2]]) / (
            2 * around
        )
        fingers.append(_chain(knuckle, bones, angles, 0.0, size * THICKNESS))
    return [*fingers, _grip_thumb(radius, axis)], axis


def _grip_thumb(radius: float, axis: Numbers) -> Chain:
    """A thumb around the other side of the cylinder, above the index finger."""
    around = radius + 0.95
    turned = -0.75 - np.cumsum([0, *THUMB_BONES[1:]]) / around
    across = np.stack([np.zeros(3), np.sin(turned), np.cos(turned)], 1)
    joints = around * across + np.array([[3.6, *axis], [4.3, *axis], [4.5, *axis]])
    return Chain(np.concatenate([[THUMB_ROOT], joints]), THUMB_THICKNESS, across)


# --- what comes to the mouth --------------------------------------------------------------------------------------


def _covering_hand(person: Identity, side: int, rng: np.random.Generator) -> Object:
    lean = rng.uniform(0.75, 1.25)
    turn = _mirrored(side) @ _rotation(lean, rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.12))
    meshes = _hand(person, _flat_hand(rng))
    contact = np.array([rng.uniform(0.4, 1.4), rng.uniform(11.5, 13.5), -1.6])
    return Object(_facing(meshes, side), contact, turn, np.array([0, -0.8, 2.0]), np.array([side * 8.0, -24.0, 5.0]))


def _microphone(person: Identity, side: int, rng: np.random.Generator) -> Object:
    radius = 1.25
    chains, axis = _gripping_hand(radius)
    ball = 8.2  # x of its middle
    dark = np.full(3, rng.uniform(0.012, 0.06))
    profile = np.array([[-9.0, 0.0], [-9.0, 0.85], [-8.7, 0.95], [1.4, 1.25], [5.2, 1.62], [5.6, 1.75], [5.9, 1.75]])
    ring = np.array([[5.9, 1.75], [5.9, 2.35], [6.0, 2.45], [6.8, 2.45], [6.9, 2.35]])
    arc = np.linspace(-0.55, 1, 24) * np.pi / 2
    dome = np.stack([ball + 2.45 * np.sin(arc) + 0.3, 2.45 * np.cos(arc) + 1e-3], 1)
    wires = np.full(3, rng.uniform(0.25, 0.75))
    meshes = [
        _turned(_dense(profile), axis, dark),
        _turned(_dense(ring), axis, np.full(3, rng.choice((0.04, 0.45)))),
        _turned(dome, axis, wires, GRILLE),
    ]
    contact = np.array([ball + 1.0, *axis])
    turn = _grip_turn(side, up=(0.10, 0.86, -0.48), ahead=(-0.30, 0.40, 0.85))
    before = np.array([side * rng.uniform(-0.3, 0.8), rng.uniform(-1.9, -0.7), rng.uniform(3.0, 4.2)])
    return Object(
        _facing([*meshes, *_hand(person, chains)], side), contact, turn, before, np.array([side * 5.0, -22.0, 4.0])
    )


def _cup(person: Identity, side: int, rng: np.random.Generator) -> Object:
    radius, low, high = 3.7, -4.2, 5.0
    chains, axis = _gripping_hand(radius)
    colour = linear(rng.uniform(40, 235, 3)) * 0.9
    wall = np.array([[low, 0.0], [low, 3.3], [low + 0.15, 3.5], [low + 0.5, 3.62], [high - 0.1, 3.7], [high, 3.62]])
    inside = np.array([[high, 3.62], [high - 0.1, 3.5], [low + 0.6, 3.3], [low + 0.5, 0.01]])
    meshes = [_turned(_dense(wall), axis, colour), _turned(_dense(inside), axis, np.array([0.7, 0.68, 0.62]))]
    contact = np.array([high - 0.4, axis[0], axis[1]])
    turn = _grip_turn(side, up=(-0.05, 0.80, -0.60), ahead=(-0.55, 0.55, 0.62))
    to_rim = np.array([0.0, -0.2, 3.3])
    before = to_rim + np.array([0, rng.uniform(-0.5, 0.2), rng.uniform(0.2, 0.5)])
    return Object(
        _facing([*meshes, *_hand(person, chains)], side), contact, turn, before, np.array([side * 6.0, -24.0, 4.0])
    )


_MAKERS = {"hand": _covering_hand, "microphone": _microphone, "cup": _cup}


def _dense(profile: Numbers) -> Numbers:
    """A profile [n, 2] with points at most 0.4 cm apart."""
    pieces = []
    for a, b in zip(profile[:-1], profile[1:], strict=True):
        pieces.append(np.linspace(a, b, max(1, int(np.linalg.norm(b - a) / 0.4)), endpoint=False))
    return np.concatenate([*pieces, profile[-1:]])


def _turned(profile: Numbers, axis: Numbers, colour: Numbers, patch: int = WHITE) -> Mesh:
    """A solid of revolution about an axis along x at (y, z); its profile [n, 2] of x and radius goes outside from low to high x."""
    turn = np.linspace(-np.pi, np.pi, 65)
    x, radius = profile[:, 0, None], profile[:, 1, None]
    points = np.stack(np.broadcast_arrays(x, axis[0] + radius * np.cos(turn), axis[1] + radius * np.sin(turn)), -1)
    u, v = np.meshgrid(np.linspace(2, PATCH - 3, len(turn)), np.linspace(2, PATCH - 3, len(profile)))
    return grid_mesh(points, colour, 0.85, 0.0, patch, np.stack([u, v], -1))


def _rotation(about_z: float, about_x: float, about_y: float) -> Numbers:
    """Rotation matrix [3, 3] by angles in radians; about z counter-clockwise in the picture."""
    return np.asarray(Pose(roll=-about_z, pitch=about_x, yaw=about_y).rotation, np.float64)


def _grip_turn(side: int, up: tuple[float, float, float], ahead: tuple[float, float, float]) -> Numbers:
    """Axes of a hand in the room: along the thing it holds `up`, its fingers `ahead`; of a hand that comes from the right."""
    x = unit(np.array(up))
    y = np.array(ahead)
    y = unit(y - (y @ x) * x)
    return _mirrored(side) @ np.stack([x, y, np.cross(x, y)], 1)


def _mirrored(side: int) -> Numbers:
    """The identity for a left hand, which comes from the picture's right, and a reflection for a right hand."""
    return np.diag([float(side), 1.0, 1.0])


def _facing(meshes: list[Mesh], side: int) -> list[Mesh]:
    """Meshes of a left hand, or those of a right one, whose triangles run counter-clockwise only after the reflection."""
    return meshes if side > 0 else [replace(mesh, triangles=mesh.triangles[:, ::-1].copy()) for mesh in meshes]


# --- a strand of hair ----------------------------------------------------------------------------------------------


class Lock:
    """A lock of hair that grows at a temple; it hangs beside the face or is blown across the mouth."""

    def __init__(self, head: Head, side: int, rng: np.random.Generator):
        n, points = 90, len(ALONG_LOCK)
        self.side = side
        surface_points = head.grid.points.reshape(-1, 3)
        front = surface_points[surface_points[:, 2] > 0]
        self._face = NearestNDInterpolator(front[:, :2], front[:, 2])
        away = np.linalg.norm(head.grid.points - np.array([side * BLOWN[0, 0], BLOWN[0, 1], 5.0]), axis=-1)
        self._row, self._column = np.unravel_index(np.argmin(away), away.shape)
        self._root = head.grid.points[self._row, self._column]
        self._long = rng.uniform(0.78, 1.06, (n, 1))
        self._apart, self._above = 0.42 * rng.standard_normal((n, 1)), 0.25 + np.abs(0.22 * rng.standard_normal((n, 1)))
        self._wave = rng.uniform(0.05, 0.4, (n, 1)) * np.sin(
            rng.uniform(3, 8, (n, 1)) * ALONG_LOCK + rng.uniform(-1, 1, (n, 1))
        )
        tone = linear(head.identity.hair) * rng.normal(1, 0.2, (n, 1)).clip(0.5, 1.6) + 0.004
        self._appearance = (
            tone.astype(np.float32),
            np.broadcast_to(0.085 * (1 - 0.6 * ALONG_LOCK**3), (n, points)).astype(np.float32),
            np.broadcast_to(rng.uniform(0.75, 1.15, (n, 1)), (n, points)).astype(np.float32),
        )

    def blown(self, share: float, sway: Numbers) -> Strands:
        """The lock, blown across the mouth by a share, and swaying by some cm [3] at its end."""
        middle = HANGING + share * (BLOWN - HANGING)
        path = CubicSpline(np.linspace(0, 1, len(middle)), middle)
        t = ALONG_LOCK * self._long
        along = path(t, 1)
        across = np.stack([-along[..., 1], along[..., 0]], -1) / np.linalg.norm(along, axis=-1, keepdims=True)
        flat = path(t) + (self._apart * (0.4 + 0.8 * t) + t * self._wave)[..., None] * across
        flat = flat * np.array([self.side, 1]) + t[..., None] ** 2 * sway[:2]
        depth = gaussian_filter1d(self._face(flat), 2, axis=1) + self._above
        offsets = (np.concatenate([flat, depth[..., None]], -1) - self._root).astype(np.float32)
        n = len(offsets)
        return Strands(np.full(n, self._row), np.full(n, self._column), offsets, *self._appearance)


# --- motion ----------------------------------------------------------------------------------------------------------


def _visits(frames: int, rng: np.random.Generator) -> Floats:
    """Share, in [0, 1], of the way to the mouth in each frame: it comes, stays for a while, goes, and comes again."""
    shown = np.zeros(frames)
    t = np.arange(frames) / MODEL_FPS
    at = rng.uniform(0.1, 0.5)
    while at < t[-1]:
        move, stay = rng.uniform(0.32, 0.55), rng.uniform(0.5, 1.3)
        there = np.minimum((t - at) / move, (at + 2 * move + stay - t) / move)
        shown = np.maximum(shown, np.clip(there, 0, 1))
        at += 2 * move + stay + rng.uniform(0.3, 1.0)
    return ramp(shown).astype(np.float32)


def _slow_noise(frames: int, columns: int, rng: np.random.Generator) -> Numbers:
    """Slow noise with unit standard deviation, [frames, columns]."""
    noise = gaussian_filter1d(rng.standard_normal((frames + 100, columns)), 8, axis=0)
    return noise[50:][:frames] / 0.188


# --- surfaces --------------------------------------------------------------------------------------------------------


def surface(depth: Callable[[Numbers], Numbers], low: Numbers, high: Numbers, step: float) -> tuple[Floats, Ints]:
    """Vertices [n, 3] and triangles [m, 3] of the surface where a function of points [n, 3] is 0; below 0 lies the inside.

    The function is sampled every `step` between two corners. Each cell of eight samples that the surface crosses has a vertex.
    """
    axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    values = depth(at.reshape(-1, 3)).reshape(at.shape[:3])
    stops: list[int] = [int(n) - 1 for n in at.shape[:3]]
    slices = [tuple(slice(i, i + n) for i, n in zip(corner, stops, strict=True)) for corner in CORNERS]
    at_corners = np.stack([values[each] for each in slices], -1)
    inside = at_corners < 0
    cells = np.argwhere(inside.any(-1) & ~inside.all(-1))
    points = (cells + _crossing(at_corners[tuple(cells.T)])) * step + np.asarray(low)
    number = np.full(tuple(stops), -1)
    number[tuple(cells.T)] = np.arange(len(cells))
    return points.astype(np.float32), _between(values < 0, number)


def _crossing(values: Numbers) -> Numbers:
    """Mean of the points [n, 3] at which the surface crosses the edges of cells with these values [n, 8] at their corners."""
    total, count = np.zeros((len(values), 3)), np.zeros((len(values), 1))
    for a, b in EDGES:
        crossed = ((values[:, a] < 0) != (values[:, b] < 0))[:, None]
        apart = values[:, a, None] - values[:, b, None]
        share = values[:, a, None] / np.where(crossed, apart, 1)
        total += np.where(crossed, CORNERS[a] + share * (CORNERS[b] - CORNERS[a]), 0)
        count += crossed
    return total / count


def _between(inside: NDArray[np.bool_], number: NDArray[np.intp]) -> Ints:
    """Two triangles for every edge of the samples' grid that the surface crosses, between the four cells around it."""
    found = []
    for axis in range(3):
        u, v = np.eye(3, dtype=int)[[(axis + 1) % 3, (axis + 2) % 3]]
        crossed = np.diff(inside.astype(np.int8), axis=axis)
        for sign in (-1, 1):
            edges = np.argwhere(crossed == sign)
            edges = edges[(edges >= u + v).all(1)]  # at the low corner's sides the surface may be open
            a, b, c, d = (number[tuple((edges - offset).T)] for offset in (u + v, v, 0 * u, u))
            quads = [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
            found += [quad if sign < 0 else quad[:, ::-1] for quad in quads]
    return np.concatenate(found).astype(np.int32)
