"""Meshes of triangles: grids of points, their normals, and the number types that everything drawn here is made of.

Triangles run counter-clockwise, seen from outside, in the axes of the head: x to the picture's right, y up, z to the camera.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Numbers = NDArray[np.floating]  # of either width

PATCH = 128  # px, side of the square texture patches that stand side by side below the skin's texture
WHITE, EYE, CLOTH, PORES, GRILLE = range(5)  # their order; the last two are only there with an occluder
SKIN = -1  # instead of a patch: the skin's texture itself


@dataclass(frozen=True)
class Mesh:
    """A mesh at rest in the axes of the head: `uv` in texels of its patch; other fields as in `raster.Surfaces`."""

    points: Floats
    normals: Floats
    triangles: Ints
    uv: Floats
    patch: int
    tint: Floats
    occlusion: Floats
    softness: float


@dataclass(frozen=True)
class Placed:
    """A mesh in a frame: its points and normals [n, 3] in the axes of the room."""

    mesh: Mesh
    points: Floats
    normals: Floats


def grid_triangles(rows: int, columns: int, first: int = 0) -> Ints:
    """Triangles int32 [n, 3] of a grid whose rows go up and whose columns go to the right; its first vertex is `first`."""
    index = first + np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    corners = [np.stack([a, b, c], -1), np.stack([b, d, c], -1)]
    return np.concatenate([corner.reshape(-1, 3) for corner in corners]).astype(np.int32)


def grid_mesh(
    points: Numbers,
    tint: Numbers,
    occlusion: Numbers | float = 1.0,
    softness: float = 0.0,
    patch: int = WHITE,
    uv: Numbers | None = None,
) -> Mesh:
    """A mesh from a grid of points [r, c, 3]; `tint` [3] or [r, c, 3], linear; without `uv` the middle of the patch."""
    r, c = points.shape[:2]
    flat = np.ascontiguousarray(points.reshape(-1, 3), np.float32)
    return free_mesh(
        flat,
        grid_triangles(r, c),
        np.broadcast_to(tint, (r, c, 3)).reshape(-1, 3),
        np.broadcast_to(occlusion, (r, c)).reshape(-1),
        softness,
        patch,
        None if uv is None else uv.reshape(-1, 2),
    )


def free_mesh(
    points: Floats,
    triangles: Ints,
    tint: Numbers,
    occlusion: Numbers,
    softness: float = 0.0,
    patch: int = WHITE,
    uv: Numbers | None = None,
) -> Mesh:
    """A mesh from points [n, 3] and triangles [m, 3]; `tint` [n, 3], `occlusion` [n]."""
    uv = np.full((len(points), 2), PATCH / 2, np.float32) if uv is None else uv
    return Mesh(
        points=points,
        normals=unit(vertex_normals(points, triangles)),
        triangles=triangles,
        uv=np.asarray(uv, np.float32),
        patch=patch,
        tint=np.ascontiguousarray(tint, np.float32),
        occlusion=np.ascontiguousarray(occlusion, np.float32),
        softness=softness,
    )


def unit(vectors: Numbers) -> Floats:
    """Vectors [..., 3] of length 1."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def bump(x: Numbers, y: Numbers, wide: float, high: float) -> Numbers:
    """A soft hill of height 1 around (0, 0), which has fallen to 1 / e at the distances `wide` and `high`."""
    return np.exp(-((x / wide) ** 2) - (y / high) ** 2)


def bell(x: Numbers) -> Numbers:
    """A soft hill of height 1 around 0, which has fallen to 1 / e at the distance 1."""
    return np.exp(-(x**2))


def ramp(x: Numbers) -> Numbers:
    """A smooth step from 0 to 1 for x from 0 to 1."""
    return x * x * (3 - 2 * x)


@njit(cache=True, fastmath=True)
def vertex_normals(points, triangles):  # type: ignore[no-untyped-def]
    """Sums of the triangles' normals, weighted by area, at each vertex: float32 [n, 3], not of unit length."""
    sums = np.zeros_like(points)
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        vx, vy, vz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for vertex in (i, j, k):
            sums[vertex, 0] += nx
            sums[vertex, 1] += ny
            sums[vertex, 2] += nz
    return sums
