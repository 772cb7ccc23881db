"""Rasterisation and shading of triangles and hair strands into a picture, compiled with numba.

All positions on the screen are in pixels, x to the right and y down; a smaller depth is nearer. Colours are linear light.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from latentsync.avatar.identity import Colour
from latentsync.avatar.mesh import Floats, Ints, Numbers

GAMMA = 2.2
FAR = np.float32(1e9)
EDGE = np.float32(1e-4)  # share of a triangle by which it is drawn too large, so that no gaps are left
NOTHING = -1  # triangle index of pixels without a surface
SHADOW_SIDE = 224  # px of the square shadow map
SHADOW_TAPS = 1  # half side, in steps, of the square of samples that softens a shadow


def linear(colour: Colour | Numbers) -> Floats:
    """Linear light, in [0, 1], of an sRGB colour in [0, 255]."""
    return np.asarray((np.asarray(colour, np.float32) / 255) ** GAMMA, np.float32)


def to_srgb(picture: Numbers) -> Floats:
    """Linear light to sRGB levels in [0, 255], with highlights rolled off like a camera's."""
    bright = np.clip(picture, 0, None)
    rolled = np.where(bright < 0.7, bright, 0.7 + 0.3 * (1 - np.exp(-(bright - 0.7) / 0.3)))
    return np.asarray(255 * rolled ** (1 / GAMMA), np.float32)


@dataclass(frozen=True)
class Surfaces:
    """Triangles of one frame, in screen space, with what shading interpolates between the vertices.

    `screen` [n, 3]: x, y, depth. `normals` [n, 3] and `view` [n, 3], the direction to the camera, in world axes. `uv` [n, 2]:
    texture position in texels. `tint` [n, 3] multiplies the texture's colour. `occlusion` [n]: 1 open to ambient light, 0 closed.
    `shadow` [n, 3]: x, y and depth in the shadow map. `triangles` int32 [m, 3]. `softness` [n]: share of light that passes
    below the surface, about 1 for skin and 0 for cloth.
    """

    screen: Floats
    normals: Floats
    view: Floats
    uv: Floats
    tint: Floats
    occlusion: Floats
    softness: Floats
    shadow: Floats
    triangles: Ints


@dataclass(frozen=True)
class Lights:
    """A key light with shadows, a fill light without, and ambient light from above and below; colours are linear RGB."""

    key_direction: Floats  # [3], unit vector towards the light
    key: Floats
    fill_direction: Floats
    fill: Floats
    sky: Floats
    ground: Floats
    shadow_radius: float  # px of the shadow map


@dataclass
class Canvas:
    """Depth [h, w], index of the visible triangle [h, w], its barycentric weights [h, w, 2], and the picture [h, w, 3]."""

    depth: Floats
    triangle: Ints
    weights: Floats
    picture: Floats


def new_canvas(height: int, width: int) -> Canvas:
    """An empty canvas; its picture is black."""
    return Canvas(
        np.full((height, width), FAR, np.float32),
        np.full((height, width), NOTHING, np.int32),
        np.zeros((height, width, 2), np.float32),
        np.zeros((height, width, 3), np.float32),
    )


def new_shadow() -> Floats:
    """An empty shadow map: the depth, seen from the key light, of what lies nearest to it."""
    return np.full((SHADOW_SIDE, SHADOW_SIDE), FAR, np.float32)


def draw(canvas: Canvas, surfaces: Surfaces, texture: Floats, lights: Lights, shadow: Floats) -> None:
    """Draw shaded surfaces and add them to a shadow map, whose shadows fall on them.

    `texture` [h, w, 6]: linear RGB, gloss, and the slopes of the surface's relief along u and v.
    """
    fill_depth(shadow, surfaces.shadow, surfaces.triangles)
    fill_triangles(canvas.depth, canvas.triangle, canvas.weights, surfaces.screen, surfaces.triangles)
    shade(
        canvas.picture, canvas.triangle, canvas.weights, surfaces.triangles, surfaces.normals, surfaces.view,
        surfaces.uv, surfaces.tint, surfaces.occlusion, surfaces.softness, surfaces.shadow, texture, shadow,
        lights.key_direction, lights.key, lights.fill_direction, lights.fill, lights.sky, lights.ground,
        np.float32(1.7 * lights.shadow_radius),
    )  # fmt: skip


@njit(cache=True, fastmath=True)
def fill_triangles(depth, found, weights, screen, triangles):  # type: ignore[no-untyped-def]
    """Z-buffer: nearest triangle and barycentric weights of its second and third vertex for each pixel."""
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = screen[i, 0], screen[i, 1], screen[i, 2]
        bx, by, bz = screen[j, 0] - ax, screen[j, 1] - ay, screen[j, 2] - az
        cx, cy, cz = screen[k, 0] - ax, screen[k, 1] - ay, screen[k, 2] - az
        area = bx * cy - by * cx
        if area >= -1e-9:  # seen from behind, or empty
            continue
        left = max(0, int(np.ceil(ax + min(0.0, bx, cx))))
        right = min(width - 1, int(np.floor(ax + max(0.0, bx, cx))))
        top = max(0, int(np.ceil(ay + min(0.0, by, cy))))
        bottom = min(height - 1, int(np.floor(ay + max(0.0, by, cy))))
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            py = y - ay
            for x in range(left, right + 1):
                px = x - ax
                second = (px * cy - py * cx) * inverse
                third = (bx * py - by * px) * inverse
                if second >= -EDGE and third >= -EDGE and second + third <= 1 + EDGE:
                    z = az + second * bz + third * cz
                    if z < depth[y, x]:
                        depth[y, x] = z
                        found[y, x] = t
                        weights[y, x, 0] = second
                        weights[y, x, 1] = third


@njit(cache=True, fastmath=True)
def fill_depth(depth, screen, triangles):  # type: ignore[no-untyped-def]
    """Z-buffer without the triangles' indices; both sides of a triangle count."""
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = screen[i, 0], screen[i, 1], screen[i, 2]
        bx, by, bz = screen[j, 0] - ax, screen[j, 1] - ay, screen[j, 2] - az
        cx, cy, cz = screen[k, 0] - ax, screen[k, 1] - ay, screen[k, 2] - az
        area = bx * cy - by * cx
        if abs(area) < 1e-9:
            continue
        left = max(0, int(np.ceil(ax + min(0.0, bx, cx))))
        right = min(width - 1, int(np.floor(ax + max(0.0, bx, cx))))
        top = max(0, int(np.ceil(ay + min(0.0, by, cy))))
        bottom = min(height - 1, int(np.floor(ay + max(0.0, by, cy))))
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            py = y - ay
            for x in range(left, right + 1):
                px = x - ax
                second = (px * cy - py * cx) * inverse
                third = (bx * py - by * px) * inverse
                if second >= -EDGE and third >= -EDGE and second + third <= 1 + EDGE:
                    z = az + second * bz + third * cz
                    if z < depth[y, x]:
                        depth[y, x] = z


@njit(cache=True, fastmath=True)
def lit_share(shadow, x, y, z, radius):  # type: ignore[no-untyped-def]
    """Share of the key light, in [0, 1], that reaches a point of the shadow map; samples around it soften the edge."""
    side = shadow.shape[0]
    lit = 0.0
    for dy in range(-SHADOW_TAPS, SHADOW_TAPS + 1):
        for dx in range(-SHADOW_TAPS, SHADOW_TAPS + 1):
            px, py = int(x + dx * radius + 0.5), int(y + dy * radius + 0.5)
            if px < 0 or py < 0 or px >= side or py >= side:
                lit += 1.0
                continue
            behind = z - shadow[py, px]  # cm
            lit += min(1.0, max(0.0, 1.0 - (behind - 0.35 - 0.12 * radius) / 0.4))
    return lit / (2 * SHADOW_TAPS + 1) ** 2


@njit(cache=True, fastmath=True)
def texel(texture, at, channel):  # type: ignore[no-untyped-def]
    """A texture's channel at (u, v, weights of the four texels there from left to right and upwards)."""
    u, v, w00, w01, w10, w11 = at
    low = w00 * texture[v, u, channel] + w01 * texture[v, u + 1, channel]
    return low + w10 * texture[v + 1, u, channel] + w11 * texture[v + 1, u + 1, channel]


@njit(cache=True, fastmath=True)
def shade(  # type: ignore[no-untyped-def]
    picture, found, weights, triangles, normals, view, uv, tint, occlusion, softness, shadow_xyz, texture, shadow,
    key_to, key, fill_to, fill, sky, ground, radius,
):  # fmt: skip
    """Colour of each pixel with a surface: wrapped diffuse light, a glossy reflection with Fresnel, ambient light.

    One long loop: everything it computes stays in registers.
    """
    height, width = found.shape
    tex_h, tex_w = texture.shape[0], texture.shape[1]
    for y in range(height):
        for x in range(width):
            t = found[y, x]
            if t < 0:
                continue
            i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            wb, wc = weights[y, x, 0], weights[y, x, 1]
            wa = np.float32(1.0) - wb - wc
            # texture, bilinear
            u = min(max(wa * uv[i, 0] + wb * uv[j, 0] + wc * uv[k, 0], 0.0), tex_w - 1.001)
            v = min(max(wa * uv[i, 1] + wb * uv[j, 1] + wc * uv[k, 1], 0.0), tex_h - 1.001)
            iu, iv = int(u), int(v)
            fu, fv = u - iu, v - iv
            at = iu, iv, (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
            r, g, b = texel(texture, at, 0), texel(texture, at, 1), texel(texture, at, 2)
            gloss, slope_u, slope_v = texel(texture, at, 3), texel(texture, at, 4), texel(texture, at, 5)
            r *= wa * tint[i, 0] + wb * tint[j, 0] + wc * tint[k, 0]
            g *= wa * tint[i, 1] + wb * tint[j, 1] + wc * tint[k, 1]
            b *= wa * tint[i, 2] + wb * tint[j, 2] + wc * tint[k, 2]
            # normal, tilted by the relief: u runs to the right, v upwards
            nx = wa * normals[i, 0] + wb * normals[j, 0] + wc * normals[k, 0]
            ny = wa * normals[i, 1] + wb * normals[j, 1] + wc * normals[k, 1]
            nz = wa * normals[i, 2] + wb * normals[j, 2] + wc * normals[k, 2]
            flat = np.sqrt(nx * nx + nz * nz) + 1e-6
            nx, ny, nz = nx - slope_u * nz / flat, ny - slope_v, nz + slope_u * nx / flat
            length = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx, ny, nz = nx * length, ny * length, nz * length
            vx = wa * view[i, 0] + wb * view[j, 0] + wc * view[k, 0]
            vy = wa * view[i, 1] + wb * view[j, 1] + wc * view[k, 1]
            vz = wa * view[i, 2] + wb * view[j, 2] + wc * view[k, 2]
            open_ = wa * occlusion[i] + wb * occlusion[j] + wc * occlusion[k]
            soft = wa * softness[i] + wb * softness[j] + wc * softness[k]
            # key light
            sx = wa * shadow_xyz[i, 0] + wb * shadow_xyz[j, 0] + wc * shadow_xyz[k, 0]
            sy = wa * shadow_xyz[i, 1] + wb * shadow_xyz[j, 1] + wc * shadow_xyz[k, 1]
            sz = wa * shadow_xyz[i, 2] + wb * shadow_xyz[j, 2] + wc * shadow_xyz[k, 2]
            facing = nx * key_to[0] + ny * key_to[1] + nz * key_to[2]
            lit = lit_share(shadow, sx, sy, sz, radius) if facing > -0.35 else 0.0
            lit_red = lit + 0.18 * soft * (1.0 - lit) * lit * 2.0  # light spreads below skin, red the farthest
            wrap_r, wrap_g, wrap_b = 0.34 * soft, 0.16 * soft, 0.12 * soft
            closed = 0.45 + 0.55 * open_
            d_r = max(0.0, (facing + wrap_r) / (1.0 + wrap_r)) * lit_red * closed
            d_g = max(0.0, (facing + wrap_g) / (1.0 + wrap_g)) * lit * closed
            d_b = max(0.0, (facing + wrap_b) / (1.0 + wrap_b)) * lit * closed
            turned = max(0.0, (nx * fill_to[0] + ny * fill_to[1] + nz * fill_to[2] + 0.25) / 1.25) * open_
            up = 0.5 + 0.5 * ny
            bounce = open_ + (1.0 - open_) * open_ * 0.4 * soft
            a_r = (ground[0] + up * (sky[0] - ground[0])) * bounce
            a_g = (ground[1] + up * (sky[1] - ground[1])) * open_
            a_b = (ground[2] + up * (sky[2] - ground[2])) * open_
            # reflections of the key and fill light
            hx, hy, hz = vx + key_to[0], vy + key_to[1], vz + key_to[2]
            h_len = 1.0 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
            half = max(0.0, (nx * hx + ny * hy + nz * hz) * h_len)
            rough = 10.0 + 70.0 * min(gloss, 1.0)
            edge = 1.0 - max(0.0, nx * vx + ny * vy + nz * vz)
            fresnel = 0.04 + 0.30 * edge * edge * edge * edge * edge
            mirror = gloss * (half**rough * (rough + 8.0) * 0.04) * lit * max(0.0, min(1.0, facing * 4.0))
            mirror_r = (mirror * fresnel * 6.0) * open_
            rim = gloss * fresnel * 0.8 * open_ * up
            picture[y, x, 0] = r * (key[0] * d_r + fill[0] * turned + a_r) + key[0] * mirror_r + sky[0] * rim
            picture[y, x, 1] = g * (key[1] * d_g + fill[1] * turned + a_g) + key[1] * mirror_r + sky[1] * rim
            picture[y, x, 2] = b * (key[2] * d_b + fill[2] * turned + a_b) + key[2] * mirror_r + sky[2] * rim


@njit(cache=True, fastmath=True)
def draw_strands(picture, depth, covered, screen, colours, widths, key_to, tangents, view, shade_low):  # type: ignore[no-untyped-def]
    """Draw polylines [s, p, 3] (x, y, depth) with a depth test; shaded along their tangents (Kajiya and Kay, 1989).

    `colours` [s, 3] linear; `widths` [s, p] in px; `covered` int32 [h, w] receives the strand's index where one is drawn.
    """
    height, width = depth.shape
    for s in range(screen.shape[0]):
        for p in range(screen.shape[1] - 1):
            x0, y0, z0 = screen[s, p, 0], screen[s, p, 1], screen[s, p, 2]
            x1, y1, z1 = screen[s, p + 1, 0], screen[s, p + 1, 1], screen[s, p + 1, 2]
            tx, ty, tz = tangents[s, p, 0], tangents[s, p, 1], tangents[s, p, 2]
            along_light = tx * key_to[0] + ty * key_to[1] + tz * key_to[2]
            along_view = tx * view[0] + ty * view[1] + tz * view[2]
            sin_light = np.sqrt(max(0.0, 1.0 - along_light * along_light))
            sin_view = np.sqrt(max(0.0, 1.0 - along_view * along_view))
            shine = max(0.0, sin_light * sin_view - along_light * along_view) ** 24
            level = shade_low[s, p] * (0.25 + 0.75 * sin_light)
            spark = 0.035 * shine * shade_low[s, p]
            steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            half = 0.5 * widths[s, p]
            for n in range(steps):
                f = n / steps
                cx, cy, z = x0 + f * (x1 - x0), y0 + f * (y1 - y0), z0 + f * (z1 - z0)
                for py in range(int(np.ceil(cy - half)), int(np.floor(cy + half)) + 1):
                    for px in range(int(np.ceil(cx - half)), int(np.floor(cx + half)) + 1):
                        if 0 <= px < width and 0 <= py < height and z <= depth[py, px]:
                            depth[py, px] = z
                            covered[py, px] = s
                            for c in range(3):
                                picture[py, px, c] = colours[s, c] * level + spark
