"""Draws one person: poses the meshes and strands, projects them to the camera, shades them, and composes them over a room."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.avatar import parts
from latentsync.avatar.hair import Strands, cap_height, grow_face, grow_hair, hairline
from latentsync.avatar.head import COLUMNS, JAW_AXIS, Expression, Head
from latentsync.avatar.identity import Identity
from latentsync.avatar.mesh import (
    PATCH,
    SKIN,
    Floats,
    Ints,
    Mesh,
    Numbers,
    Placed,
    free_mesh,
    grid_mesh,
    grid_triangles,
    ramp,
    unit,
    vertex_normals,
)
from latentsync.avatar.raster import (
    NOTHING,
    SHADOW_SIDE,
    Canvas,
    Lights,
    Surfaces,
    draw,
    draw_strands,
    linear,
    new_canvas,
    new_shadow,
)
from latentsync.avatar.skin import TEXELS, occlusion, paint_skin

SUPERSAMPLED = 2  # pixels drawn for each pixel of the frame, in both directions
CAMERA_CM = 95.0  # from the camera to the head
PIVOT = np.array([0.0, -10.5, -2.0], np.float32)  # point of the neck about which the head turns
SHADOW_SCALE = 5.6  # px of the shadow map per cm
SHADOW_MIDDLE = np.array([0, -4.0, 0], np.float32)  # cm, in the middle of the shadow map
SHADOW_DISTANCE = 60  # cm from there to the plane of depth 0
HAIR_MIDDLE = np.array([[0.0, 0.5, 0.0]], np.float32)  # cm; hair is lit as if it stood out from here
NECK_FIXED_Y, NECK_FREE_Y = -19.5, -12.0  # the neck turns with the head above, and not at all below


@dataclass(frozen=True)
class Pose:
    """Position of the head: angles in radians (yaw > 0 to the picture's right, pitch > 0 down, roll > 0 clockwise), shift in cm."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    px_per_cm: float = 8.0
    size: tuple[int, int] = (256, 256)  # height and width of the frame in px
    centre: tuple[float, float] = (0.5, 0.45)  # of the eyes' middle at rest, as shares of the width and the height

    @property
    def rotation(self) -> Floats:
        """Rotation matrix [3, 3]."""
        (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (self.yaw, self.pitch, self.roll))
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
        return (roll @ yaw @ pitch).astype(np.float32)

    def place(self, points: Numbers, share: Floats | float = 1.0) -> Floats:
        """Points [n, 3] of the head in the axes of the room; `share` in [0, 1] of the head's rotation that they take."""
        placed = (points - PIVOT) @ self.rotation.T + PIVOT
        if not np.isscalar(share) or share != 1.0:
            placed = points + np.asarray(share)[..., None] * (placed - points)
        return (placed + np.array([*self.shift, 0.0])).astype(np.float32)

    def project(self, points: Floats, scale: float = 1.0) -> Floats:
        """Points [n, 3] of the room in frame px times `scale`: x, y and distance from the camera in cm."""
        distance = CAMERA_CM - points[..., 2]
        zoom = scale * self.px_per_cm * CAMERA_CM / distance
        x = scale * (self.size[1] * self.centre[0] - 0.5) + zoom * points[..., 0]
        y = scale * (self.size[0] * self.centre[1] - 0.5) - zoom * points[..., 1]
        offset = 0.5 * (scale - 1)
        return np.stack([x + offset, y + offset, distance], -1).astype(np.float32)


@dataclass(frozen=True)
class Held:
    """What is before a face in a frame: meshes, and strands that grow on the head."""

    meshes: Sequence[Placed] = ()
    strands: Strands | None = None


@dataclass(frozen=True)
class Moved:
    """A mesh in a frame: points and normals [n, 3] in the axes of the head, and the share of the head's rotation it takes."""

    mesh: Mesh
    points: Floats
    normals: Floats
    share: float = 1.0


class Renderer:
    """Draws the person of an identity; what does not change in a clip is prepared once."""

    def __init__(self, identity: Identity, held_patches: Floats | None = None):
        """`held_patches` [PATCH, n * PATCH, 6] are textures of what is held before the face."""
        self.head = head = Head(identity)
        rng = np.random.default_rng(identity.texture_seed)
        skin = paint_skin(head, rng)
        patches = [parts.patches(identity, rng), *([] if held_patches is None else [held_patches])]
        self._texture = _atlas(skin.texture, np.concatenate(patches, 1))
        self._below = skin.texture.shape[0]  # first row of the patches in the texture
        self._skin = _skin_mesh(head)
        self._turning = _turning(head.grid.points[..., 1].reshape(-1))
        self._lights = _lights(identity)
        outward = self._normals(head.grid.points).reshape(head.grid.points.shape)
        self._eyes = [parts.eyeball(head, side) for side in (-1, 1)]
        self._still = self._still_meshes(outward)
        self._upper_teeth, self._lower_teeth = parts.upper_teeth(head), parts.lower_teeth(head)
        self._tongue, self._torso = parts.tongue(head), parts.torso(head)
        strands = [grow_hair(head, outward, rng), grow_face(head, outward, skin.beard, rng), parts.glasses(head)]
        self._strands = [each for each in strands if each is not None]

    def _still_meshes(self, outward: Floats) -> list[Mesh]:
        """Meshes that only move with the head; `outward` [r, c, 3] are its normals."""
        head = self.head
        meshes = [parts.ear(head, -1), parts.ear(head, 1), parts.cavity(head)]
        meshes += [parts.eye_socket(head, side) for side in (-1, 1)]
        cap = self._cap(outward)
        return meshes if cap is None else [*meshes, cap]

    def draw(self, expression: Expression, pose: Pose, held: Held | None = None) -> tuple[Floats, Floats, Floats]:
        """The person: premultiplied linear RGB [h, w, 3], alpha [h, w], and the share that `held` covers [h, w], all in [0, 1]."""
        canvas, shadow = self._drawn(expression, pose)
        covered = canvas.triangle != NOTHING
        mask = np.zeros_like(covered)
        if held is not None:
            mask = self._draw_held(canvas, shadow, held, expression, pose)
            covered |= mask
        shares = covered.astype(np.float32)
        colour = _averaged(canvas.picture * shares[..., None], pose.size)
        return colour, _averaged(shares, pose.size), _averaged(mask.astype(np.float32), pose.size)

    def _drawn(self, expression: Expression, pose: Pose) -> tuple[Canvas, Floats]:
        """The person without anything held, and the shadow map."""
        h, w = (side * SUPERSAMPLED for side in pose.size)
        canvas, shadow = new_canvas(h, w), new_shadow()
        skin = self.head.pose(expression)
        surfaces = self._surfaces(self._placed(skin, expression, pose), pose)
        draw(canvas, surfaces, self._texture, self._lights, shadow)
        for strands in self._strands:
            self._draw_strands(canvas, strands, skin, pose)
        return canvas, shadow

    def _draw_held(
        self, canvas: Canvas, shadow: Floats, held: Held, expression: Expression, pose: Pose
    ) -> NDArray[np.bool_]:
        """Draw over the person what is not behind it, without a shadow on it; returns the pixels that it covers, [h, w]."""
        over = replace(new_canvas(*canvas.depth.shape), depth=canvas.depth, picture=canvas.picture)
        if held.meshes:
            draw(over, self._surfaces(held.meshes, pose), self._texture, self._lights, shadow)
        if held.strands is not None:
            self._draw_strands(over, held.strands, self.head.pose(expression), pose)
        return over.triangle != NOTHING

    def _surfaces(self, placed: Sequence[Placed], pose: Pose) -> Surfaces:
        """Meshes of a frame, projected."""
        meshes, counts = [each.mesh for each in placed], [len(each.points) for each in placed]
        first = np.cumsum([0, *counts], dtype=np.int32)
        points = np.concatenate([each.points for each in placed])
        softness = [np.full(n, mesh.softness, np.float32) for mesh, n in zip(meshes, counts, strict=True)]
        return Surfaces(
            screen=pose.project(points, SUPERSAMPLED),
            normals=np.concatenate([each.normals for each in placed]).astype(np.float32),
            view=unit(np.array([0, 0, CAMERA_CM], np.float32) - points),
            uv=np.concatenate([self._in_atlas(mesh) for mesh in meshes]).astype(np.float32),
            tint=np.concatenate([mesh.tint for mesh in meshes]),
            occlusion=np.concatenate([mesh.occlusion for mesh in meshes]),
            softness=np.concatenate(softness),
            shadow=self._in_shadow_map(points),
            triangles=np.concatenate([mesh.triangles + n for mesh, n in zip(meshes, first, strict=False)]),
        )

    def _in_atlas(self, mesh: Mesh) -> Floats:
        """Position of a mesh's vertices in the whole texture, [n, 2]."""
        return mesh.uv if mesh.patch == SKIN else mesh.uv + np.array([mesh.patch * PATCH, self._below], np.float32)

    def _placed(self, skin: Floats, expression: Expression, pose: Pose) -> list[Placed]:
        """The skin [r, c, 3] and the other meshes of the person in a frame."""
        turn = pose.rotation.T
        found = [Placed(self._skin, pose.place(skin.reshape(-1, 3), self._turning), self._normals(skin) @ turn)]
        for each in self._moved(skin, expression):
            normals = each.normals @ turn if each.share else each.normals
            found.append(Placed(each.mesh, pose.place(each.points, each.share), normals))
        return found

    def _moved(self, skin: Floats, expression: Expression) -> list[Moved]:
        """The meshes besides the skin [r, c, 3] with this expression."""
        rolls = parts.lip_rolls(self.head, skin)
        return [
            *self._moved_eyes(expression),
            *(Moved(mesh, mesh.points, mesh.normals) for mesh in self._still),
            *self._moved_mouth(expression),
            *(Moved(mesh, mesh.points, mesh.normals) for mesh in rolls),
            Moved(self._torso, self._torso.points, self._torso.normals, 0.0),
        ]

    def _moved_eyes(self, expression: Expression) -> list[Moved]:
        right, up = expression.gaze
        turn = Pose(yaw=0.42 * right, pitch=-0.3 * up).rotation.T
        return [Moved(mesh, mesh.points @ turn + middle, mesh.normals @ turn) for mesh, middle in self._eyes]

    def _moved_mouth(self, expression: Expression) -> list[Moved]:
        """The upper teeth, hidden or shown by the lip, and what moves with the jaw."""
        hidden = np.array([0, 0.45 * (1 - min(1.0, 1.6 * expression.teeth)), 0], np.float32)
        raised = 0.45 * expression.tongue * min(1.0, self.head.opening(expression))
        drop = self.head.jaw_angle(expression)
        return [
            Moved(self._upper_teeth, self._upper_teeth.points + hidden, self._upper_teeth.normals),
            Moved(self._lower_teeth, _with_jaw(self._lower_teeth.points, drop, 0.0), self._lower_teeth.normals),
            Moved(self._tongue, _with_jaw(self._tongue.points, drop, raised), self._tongue.normals),
        ]

    def _normals(self, skin: Floats) -> Floats:
        """Unit normals of the skin [n, 3]; where the lips or the lids touch, both bands have the same."""
        grid = self.head.grid
        flat = np.ascontiguousarray(skin.reshape(-1, 3))
        sums = vertex_normals(flat, self._skin.triangles).reshape(skin.shape)
        sums[:, 0] = sums[:, -1] = sums[:, 0] + sums[:, -1]
        for row in (grid.lips_row, grid.eyes_row):
            closed = np.abs(skin[row] - skin[row - 1]).max(-1) < 1e-3
            sums[row, closed] = sums[row - 1, closed] = sums[row, closed] + sums[row - 1, closed]
        return unit(sums.reshape(-1, 3))

    def _in_shadow_map(self, points: Floats) -> Floats:
        key = self._lights.key_direction
        right = unit(np.cross(np.array([0, 1, 0], np.float32), key))
        up = np.cross(key, right)
        x = SHADOW_SIDE / 2 + SHADOW_SCALE * (points @ right)
        y = SHADOW_SIDE / 2 - SHADOW_SCALE * ((points - SHADOW_MIDDLE) @ up)
        return np.stack([x, y, SHADOW_DISTANCE - points @ key], -1).astype(np.float32)

    def _cap(self, outward: Floats) -> Mesh | None:
        """The opaque body of the hair below the strands."""
        mask = hairline(self.head)
        if not mask.any():
            return None
        height = cap_height(self.head) - 0.12 * (mask < 0.5) - 0.02
        points = self.head.grid.points + outward * height[..., None]
        mesh = grid_mesh(points, 0.8 * linear(self.head.identity.hair), 0.45 + 0.3 * mask)
        return replace(mesh, triangles=mesh.triangles[mask.reshape(-1)[mesh.triangles].max(1) > 0.5])

    def _draw_strands(self, canvas: Canvas, strands: Strands, skin: Floats, pose: Pose) -> None:
        key = self._lights.key_direction
        bright = float(self._lights.key.mean()) + float(self._lights.sky.mean())
        local = skin[strands.row, strands.column][:, None] + strands.offsets
        placed = pose.place(local.reshape(-1, 3)).reshape(local.shape)
        outward = unit(placed - pose.place(HAIR_MIDDLE)[0])
        lit = 0.45 + 0.55 * np.clip(0.35 + 0.75 * outward @ key, 0, 1)
        screen = pose.project(placed, SUPERSAMPLED)
        screen[..., 2] -= 0.02  # cm in front of the surface on which it grows
        draw_strands(
            canvas.picture, canvas.depth, canvas.triangle, screen, strands.colours,
            (strands.widths * pose.px_per_cm * SUPERSAMPLED).astype(np.float32), key, unit(np.diff(placed, axis=1)),
            np.array([0, 0, 1], np.float32), (bright * lit * strands.shade).astype(np.float32),
        )  # fmt: skip


def _averaged(drawn: Floats, size: tuple[int, int]) -> Floats:
    """Means over the pixels drawn for each pixel of a frame of (h, w)."""
    return np.asarray(cv2.resize(drawn, size[::-1], interpolation=cv2.INTER_AREA), np.float32)


def _with_jaw(points: Floats, drop: float, raised: float) -> Floats:
    """Points [n, 3] turned downwards with the jaw by an angle, then raised (in cm) and moved forward half as far."""
    x, y, z = points.T
    down = y - (drop * (z - JAW_AXIS[1]) - raised)
    return np.stack([x, down, z + (drop * (y - JAW_AXIS[0]) + 0.5 * raised)], 1)


def _turning(y: Floats) -> Floats:
    """Share of the head's rotation that the skin takes at a height: less down the neck."""
    return ramp(np.clip((y - NECK_FIXED_Y) / (NECK_FREE_Y - NECK_FIXED_Y), 0, 1))


def _lights(person: Identity) -> Lights:
    key_colour = np.array([1 + 0.10 * person.warmth, 1.0, 1 - 0.14 * person.warmth])
    around, high = person.light_angle, person.light_height
    direction = np.array([np.sin(around) * np.cos(high), np.sin(high), np.cos(around) * np.cos(high)])
    strength = 0.45 + 0.75 * person.light_strength
    rest = 1.0 - 0.42 * person.light_strength
    fill = np.array([-np.sign(around or 1) * 0.75, 0.15, 0.65])
    return Lights(
        unit(direction), (strength * key_colour).astype(np.float32), unit(fill),
        (0.16 * rest * (2 - key_colour)).astype(np.float32), (0.52 * rest * (2 - key_colour)).astype(np.float32),
        (0.20 * rest * np.array([1.05, 1.0, 0.92])).astype(np.float32), 0.8 + 2.2 * person.light_softness,
    )  # fmt: skip


def _skin_mesh(head: Head) -> Mesh:
    """The skin at rest; its points and normals differ in every frame."""
    grid = head.grid
    points = grid.points.reshape(-1, 3)
    triangles = _head_triangles(grid.lips_row, grid.eyes_row, len(grid.points))
    white, uv = np.ones_like(points), _grid_uv(len(grid.points))
    return free_mesh(points, triangles, white, occlusion(head).reshape(-1), softness=1.0, patch=SKIN, uv=uv)


def _atlas(skin: Floats, patches: Floats) -> Floats:
    """The skin's texture with the patches below it."""
    atlas = np.zeros((skin.shape[0] + PATCH, max(skin.shape[1], patches.shape[1]), 6), np.float32)
    atlas[: skin.shape[0], : skin.shape[1]] = skin
    atlas[skin.shape[0] :, : patches.shape[1]] = patches
    return atlas


def _head_triangles(lips_row: int, eyes_row: int, rows: int) -> Ints:
    """Triangles of the three bands of the head's grid."""
    bands = [(0, lips_row), (lips_row, eyes_row), (eyes_row, rows)]
    return np.concatenate([grid_triangles(b - a, COLUMNS, a * COLUMNS) for a, b in bands])


def _grid_uv(rows: int) -> Floats:
    """Texture position of each vertex of the head, [rows * COLUMNS, 2]."""
    v, u = np.mgrid[0:rows, 0:COLUMNS]
    middle = (TEXELS - 1) / 2
    return (np.stack([u, v], -1).reshape(-1, 2) * TEXELS + middle).astype(np.float32)
