"""Draws a head on a square canvas: the static parts once; eyes, brows and mouth in every frame.

Canvas coordinates are in pixels, x to the right and y down; the face is frontal and centred.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.avatar.identity import Colour, Identity

CANVAS = 384
CENTRE_X = CANVAS / 2
SUBPIXEL_BITS = 4
MOUTH_INSIDE: Colour = (38, 12, 14)
TEETH: Colour = (226, 222, 212)
GLOSS: Colour = (255, 240, 226)  # specular light, without which dark skin would look flat
UPPER_SHARE = 0.35  # share of a mouth opening above the lip line; the jaw makes the share below it


@dataclass(frozen=True)
class Expression:
    """Facial expression in one frame; mouth values as in `mouth.MouthTrack`, the others in [0, 1]."""

    aperture: float
    width: float
    teeth: float
    tongue: float
    tuck: float
    blink: float = 0.0  # 0 open eyes, 1 closed
    brow_raise: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)  # -1 ... 1


class Head:
    """The head of one avatar; `draw` draws an expression over the prepared static parts."""

    def __init__(self, identity: Identity):
        self.identity = identity
        self._rng = np.random.default_rng(identity.texture_seed)
        shade = self._shading()
        self.alpha = self._silhouette()  # [CANVAS, CANVAS] float32, 1 on the head
        self._light = shade[..., None] * _light_colour(identity.warmth)  # [CANVAS, CANVAS, 3]
        self._static = self._paint_static()

    def draw(self, expression: Expression) -> np.ndarray:
        """The head with this expression: uint8 [CANVAS, CANVAS, 3] RGB (undefined where `alpha` is 0)."""
        canvas = self._static.copy()
        for side in (-1, 1):
            self._draw_eye(canvas, side, expression)
            self._draw_brow(canvas, side, expression)
        if self.identity.glasses:
            self._draw_glasses(canvas)
        self._draw_mouth(canvas, expression)
        return canvas

    def opening(self, expression: Expression) -> float:
        """Distance of the inner lips at the middle of the mouth, in canvas pixels."""
        return expression.aperture * self.identity.max_opening

    def landmarks(self, expression: Expression) -> dict[str, tuple[float, float]]:
        """Canvas positions of named points; left and right are those of the picture."""
        person = self.identity
        half_eyes = person.eye_distance / 2
        brow_y = person.eye_y - person.brow_gap - 5 * expression.brow_raise
        half_mouth = self._mouth_half_width(expression)
        opening = self.opening(expression)
        return {
            "left_eye": (CENTRE_X - half_eyes, person.eye_y),
            "right_eye": (CENTRE_X + half_eyes, person.eye_y),
            "left_brow": (CENTRE_X - half_eyes, brow_y),
            "right_brow": (CENTRE_X + half_eyes, brow_y),
            "nose": (CENTRE_X, person.eye_y + 0.75 * person.nose_length),
            "mouth_left": (CENTRE_X - half_mouth, person.mouth_y),
            "mouth_right": (CENTRE_X + half_mouth, person.mouth_y),
            "lip_top": (CENTRE_X, person.mouth_y - UPPER_SHARE * opening),
            "lip_bottom": (CENTRE_X, person.mouth_y + (1 - UPPER_SHARE) * opening),
            "chin": (CENTRE_X, person.chin_y),
        }

    # --- static parts -----------------------------------------------------------------------------------------

    def _face_outline(self) -> np.ndarray:
        """Closed outline of the face as [n, 2] points: half an ellipse above the eyes, a jaw line below."""
        person = self.identity
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        side, height = np.cos(angle), np.sin(angle)  # height > 0 is below the eye line
        squareness = 0.85 - 0.3 * person.jaw
        narrow = np.where(height > 0, np.abs(side) ** squareness * np.sign(side), side)
        taper = np.where(height > 0, 1 - (0.18 - 0.14 * person.jaw) * height**2, 1.0)
        reach = np.where(height > 0, person.chin_y - person.eye_y, person.eye_y - 62)
        return np.stack([CENTRE_X + person.face_half_width * narrow * taper, person.eye_y + reach * height], axis=1)

    def _silhouette(self) -> np.ndarray:
        """Alpha mask of the head: face, ears, neck and hair, [CANVAS, CANVAS] float32."""
        person = self.identity
        mask = np.zeros((CANVAS, CANVAS), np.uint8)
        _fill(mask, self._face_outline(), 255)
        half = person.face_half_width
        for side in (-1, 1):
            _ellipse(mask, (CENTRE_X + side * (half + 3), person.eye_y + 18), (12, 24), 255)
        _fill(mask, _box(CENTRE_X, person.chin_y - 30, 0.52 * half, 62), 255)  # the neck ends in a round collar
        _ellipse(mask, (CENTRE_X, person.chin_y + 31), (0.52 * half, 16), 255)
        mask[self._hair_mask() > 0] = 255
        return cv2.GaussianBlur(mask, (0, 0), 1.0).astype(np.float32) / 255

    def _hair_mask(self) -> np.ndarray:
        person = self.identity
        mask = np.zeros((CANVAS, CANVAS), np.uint8)
        half, top = person.face_half_width, 62.0
        if person.hair_style == "bald":
            return mask
        _ellipse(mask, (CENTRE_X, 128), (half + 14, 84), 255)
        if person.hair_style == "long":
            _fill(mask, _box(CENTRE_X, 128, half + 16, 190), 255)
        if person.hair_style == "bun":
            _ellipse(mask, (CENTRE_X, 38), (34, 26), 255)
        if person.hair_style == "curly":
            for angle in np.linspace(np.pi, 2 * np.pi, 13):
                spot = (CENTRE_X + (half + 8) * np.cos(angle), 126 + 78 * np.sin(angle))
                _ellipse(mask, spot, (20, 20), 255)
        opening = np.zeros_like(mask)  # no hair over the face
        shift = 18 if person.hair_style == "side" else 0
        _ellipse(opening, (CENTRE_X + shift, person.eye_y + 36), (half - 2, person.eye_y - top + 4 + shift / 2), 255)
        outline = np.zeros_like(mask)
        _fill(outline, self._face_outline(), 255)
        lower = np.arange(CANVAS)[:, None] > person.eye_y - 10
        mask[(opening > 0) | (lower & (outline > 0))] = 0
        return mask

    def _shading(self) -> np.ndarray:
        """Brightness of a head-like ellipsoid under one light, [CANVAS, CANVAS] float32 around 1."""
        person = self.identity
        y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
        nx = np.clip((x - CENTRE_X) / (person.face_half_width * 1.08), -1, 1)
        ny = np.clip((y - 195) / 140, -1, 1)
        nz = np.sqrt(np.clip(1 - 0.8 * nx**2 - 0.5 * ny**2, 0.05, 1))
        lit = nz + person.light_strength * (np.sin(person.light_angle) * nx * 1.6 - 0.6 * ny)
        return (0.66 + 0.38 * lit).astype(np.float32)

    def _paint_static(self) -> np.ndarray:
        person = self.identity
        skin = np.empty((CANVAS, CANVAS, 3), np.float32)
        skin[:] = person.skin
        skin *= 1 + 0.025 * self._grain(6.0)[..., None]
        _soft_patch(skin, (CENTRE_X, person.chin_y + 26), (70, 26), 0.35, factor=0.62)  # shadow under the chin
        gloss = self._gloss()
        for side in (-1, 1):
            eye_x = CENTRE_X + side * person.eye_distance / 2
            _soft_patch(skin, (eye_x, person.eye_y - 6), (32, 19), 0.8, factor=0.55)  # eye socket
            _soft_patch(skin, (eye_x + side * 4, person.eye_y + 38), (28, 20), 0.5, factor=1.12)  # cheekbone
            _soft_patch(skin, (eye_x + side * 6, person.eye_y + 50), (26, 18), 0.16, colour=(232, 120, 110))
            _soft_patch(skin, (eye_x + side * 4, person.eye_y + 34), (24, 16), gloss, colour=GLOSS)
        _soft_patch(skin, (CENTRE_X, person.eye_y - 50), (54, 24), gloss, colour=GLOSS)  # forehead
        self._paint_nose(skin)
        _soft_patch(skin, (CENTRE_X, person.chin_y - 22), (26, 10), 0.25, factor=0.86)  # crease below the lower lip
        self._paint_beard(skin)
        self._paint_hair(skin)
        return np.clip(skin * self._light, 0, 255).astype(np.uint8)

    def _gloss(self) -> float:
        """Strength of the specular light, larger for darker skin."""
        return 0.10 + 0.16 * (1 - sum(self.identity.skin) / 600)

    def _paint_nose(self, skin: np.ndarray) -> None:
        person = self.identity
        tip_y = person.eye_y + person.nose_length
        _soft_patch(skin, (CENTRE_X, person.eye_y + 0.45 * person.nose_length), (11, 34), 0.8, factor=1.16)
        _soft_patch(skin, (CENTRE_X, person.eye_y + 0.5 * person.nose_length), (9, 32), self._gloss(), colour=GLOSS)
        side = np.sign(person.light_angle) or 1.0
        _soft_patch(skin, (CENTRE_X - side * 13, tip_y - 22), (8, 26), 0.5, factor=0.84)
        _soft_patch(skin, (CENTRE_X, tip_y - 4), (person.nose_half_width * 0.8, 10), 0.5, factor=1.08)
        _soft_patch(skin, (CENTRE_X, tip_y + 8), (person.nose_half_width * 1.1, 6), 0.6, factor=0.76)
        for nostril in (-1, 1):
            spot = (CENTRE_X + nostril * person.nose_half_width * 0.5, tip_y + 4)
            _soft_patch(skin, spot, (5, 3), 0.85, factor=0.42)

    def _paint_beard(self, skin: np.ndarray) -> None:
        person = self.identity
        if person.beard == "none":
            return
        area = np.zeros((CANVAS, CANVAS), np.uint8)
        if person.beard in ("stubble", "full"):
            _fill(area, self._face_outline(), 255)
            area[: int(person.mouth_y - 26)] = 0
            cheeks = (CENTRE_X, person.mouth_y - 44)
            _ellipse(area, cheeks, (person.face_half_width * 0.82, 40), 0)
        _ellipse(area, (CENTRE_X, person.mouth_y - 17), (person.mouth_half_width * 1.05, 8), 255)
        strength = {"stubble": 0.28, "moustache": 0.6, "full": 0.66}[person.beard]
        alpha = cv2.GaussianBlur(area, (0, 0), 4).astype(np.float32)[..., None] / 255
        alpha *= strength * (1 + 0.25 * self._grain(1.2)[..., None])
        hair = np.maximum(np.asarray(person.hair, np.float32), 0.34 * np.asarray(person.skin, np.float32))
        skin += np.clip(alpha, 0, 1) * (hair - skin)

    def _paint_hair(self, skin: np.ndarray) -> None:
        alpha = cv2.GaussianBlur(self._hair_mask(), (0, 0), 1.5).astype(np.float32)[..., None] / 255
        strands = cv2.blur(self._grain(1.0), (3, 25))
        hair = np.asarray(self.identity.hair, np.float32) * (1 + 0.5 * strands[..., None])
        skin += alpha * (np.clip(hair, 0, 255) - skin)

    def _grain(self, sigma: float) -> np.ndarray:
        noise = cv2.GaussianBlur(self._rng.standard_normal((CANVAS, CANVAS)).astype(np.float32), (0, 0), sigma)
        return noise / noise.std()

    # --- moving parts ------------------------------------------------------------------------------------------

    def _lit(self, colour: Colour, x: float, y: float, factor: float = 1.0) -> Colour:
        """A colour under the light at a canvas position."""
        light = self._light[int(np.clip(y, 0, CANVAS - 1)), int(np.clip(x, 0, CANVAS - 1))]
        r, g, b = (int(v) for v in np.clip(np.asarray(colour) * light * factor, 0, 255))
        return r, g, b

    def _draw_eye(self, canvas: np.ndarray, side: int, expression: Expression) -> None:
        person = self.identity
        x, y = CENTRE_X + side * person.eye_distance / 2, person.eye_y
        half, open_ = person.eye_half_width, 1 - expression.blink
        u = np.linspace(-1, 1, 17)
        lid = np.sqrt(np.clip(1 - u**2, 0, 1))
        top, bottom = y - 10.5 * lid * open_ + 3 * lid * (1 - open_), y + 6.5 * lid
        shape = np.concatenate([np.stack([x + half * u, top], 1), np.stack([x + half * u, bottom], 1)[::-1]])
        if open_ > 0.15:
            _fill(canvas, shape, self._lit((232, 228, 224), x, y))
            gaze_x, gaze_y = x + 5 * expression.gaze[0], y - 1.5 + 2 * expression.gaze[1]
            eyeball = np.zeros((48, 64), np.uint8)  # mask of the visible eyeball between the lids
            origin = np.array([round(x) - 32, round(y) - 24])
            _fill(eyeball, shape - origin, 255)
            patch = canvas[origin[1] : origin[1] + 48, origin[0] : origin[0] + 64]
            drawn = patch.copy()
            _ellipse(drawn, (gaze_x - origin[0], gaze_y - origin[1]), (9, 9), self._lit(person.eye, x, y))
            _ellipse(drawn, (gaze_x - origin[0], gaze_y - origin[1]), (4.2, 4.2), (14, 12, 12))
            _ellipse(drawn, (gaze_x - origin[0] - 3, gaze_y - origin[1] - 3), (1.8, 1.8), (240, 240, 240))
            patch[eyeball > 127] = drawn[eyeball > 127]
        else:
            _fill(canvas, shape, self._lit(person.skin, x, y, 0.82))
        lash = self._lit(tuple(int(0.3 * v) for v in person.skin), x, y)  # type: ignore[arg-type]
        _line(canvas, np.stack([x + half * u, top], 1), lash, 3)

    def _draw_brow(self, canvas: np.ndarray, side: int, expression: Expression) -> None:
        person = self.identity
        x = CENTRE_X + side * person.eye_distance / 2
        y = person.eye_y - person.brow_gap - 5 * expression.brow_raise
        u = np.linspace(-1, 1, 13)
        middle = y + 4 * u**2 - 2 * side * u
        half = person.brow_thickness / 2 * (1 - 0.55 * np.clip(side * u, 0, 1))
        along = x + 25 * u
        shape = np.concatenate([np.stack([along, middle - half], 1), np.stack([along, middle + half], 1)[::-1]])
        hair = np.minimum(np.asarray(person.hair), 0.62 * np.asarray(person.skin))
        _fill(canvas, shape, self._lit(tuple(int(v) for v in hair), x, y))  # type: ignore[arg-type]

    def _draw_glasses(self, canvas: np.ndarray) -> None:
        person = self.identity
        for side in (-1, 1):
            spot = (CENTRE_X + side * person.eye_distance / 2, person.eye_y + 3)
            _ellipse(canvas, spot, (29, 22), (46, 42, 44), thickness=2)
        bridge = person.eye_distance / 2 - 29
        _line(canvas, np.array([[CENTRE_X - bridge, person.eye_y], [CENTRE_X + bridge, person.eye_y]]), (46, 42, 44), 2)

    def _mouth_half_width(self, expression: Expression) -> float:
        stretch = 1 + (0.14 if expression.width > 0 else 0.34) * expression.width - 0.06 * expression.aperture
        return self.identity.mouth_half_width * stretch

    def _draw_mouth(self, canvas: np.ndarray, expression: Expression) -> None:
        person = self.identity
        y, half, opening = person.mouth_y, self._mouth_half_width(expression), self.opening(expression)
        u = np.linspace(-1, 1, 25)
        arch = np.clip(1 - u**2, 0, 1)
        inner = np.sqrt(arch)  # a round opening
        top, bottom = y - UPPER_SHARE * opening * inner, y + (1 - UPPER_SHARE) * opening * inner
        bow = 1 - 0.22 * np.exp(-((u / 0.16) ** 2))  # cupid's bow
        pout = 1 + 0.25 * max(0.0, -expression.width)
        upper = person.lip_thickness * pout * arch**0.8 * bow * 0.85
        lower = person.lip_thickness * pout * arch**0.6 * 1.1 * (1 - 0.55 * expression.tuck)
        x = CENTRE_X + half * u
        inside_x = CENTRE_X + 0.92 * half * u
        _fill(canvas, _ribbon(x, top - upper, bottom), self._lit(person.lips, CENTRE_X, y, 0.86))
        _fill(canvas, _ribbon(x, top, bottom + lower), self._lit(person.lips, CENTRE_X, y))
        shine = _ribbon(CENTRE_X + 0.5 * half * u, bottom + 0.35 * lower, bottom + 0.6 * lower)
        _fill(canvas, shine, self._lit(person.lips, CENTRE_X, y, 1.14))
        if opening < 1.0:
            line = self._lit(person.lips, CENTRE_X, y, 0.52)
            _line(canvas, np.stack([inside_x, y + 0.8 * (1 - arch)], 1), line, 2)
        if opening > 0.3:
            self._draw_inside(canvas, expression, inside_x, top, bottom)

    def _draw_inside(
        self, canvas: np.ndarray, expression: Expression, x: np.ndarray, top: np.ndarray, bottom: np.ndarray
    ) -> None:
        """The dark opening, upper teeth and tongue, between the inner lips."""
        y, height = self.identity.mouth_y, bottom - top
        _fill(canvas, _ribbon(x, top, bottom), self._lit(MOUTH_INSIDE, CENTRE_X, y))
        tongue = 0.30 * expression.tongue * height * np.clip(1 - (np.linspace(-1.3, 1.3, len(x))) ** 2, 0, 1)
        if tongue.max() > 0.5:
            _fill(canvas, _ribbon(x, bottom - tongue, bottom), self._lit((112, 44, 46), CENTRE_X, y))
        teeth = (
            np.minimum(0.24 * height, 6.0) * expression.teeth * np.clip(1.15 - np.linspace(-1, 1, len(x)) ** 2, 0, 1)
        )
        if teeth.max() > 0.5:
            _fill(canvas, _ribbon(x, top, top + teeth), self._lit(TEETH, CENTRE_X, y))


def _light_colour(warmth: float) -> np.ndarray:
    return np.array([1 + 0.06 * warmth, 1.0, 1 - 0.08 * warmth], np.float32)


def _ribbon(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Polygon between two curves over the same x: [2n, 2]."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def _box(centre_x: float, top: float, half_width: float, height: float) -> np.ndarray:
    left, right, bottom = centre_x - half_width, centre_x + half_width, top + height
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _fill(canvas: np.ndarray, points: np.ndarray, colour: Colour | int) -> None:
    cv2.fillPoly(canvas, [_fixed(points)], colour, cv2.LINE_AA, SUBPIXEL_BITS)


def _line(canvas: np.ndarray, points: np.ndarray, colour: Colour, thickness: int) -> None:
    cv2.polylines(canvas, [_fixed(points)], False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _ellipse(
    canvas: np.ndarray,
    centre: tuple[float, float],
    axes: tuple[float, float],
    colour: Colour | int,
    thickness: int = cv2.FILLED,
) -> None:
    one = 1 << SUBPIXEL_BITS
    middle, radii = (round(centre[0] * one), round(centre[1] * one)), (round(axes[0] * one), round(axes[1] * one))
    cv2.ellipse(canvas, middle, radii, 0, 0, 360, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _soft_patch(
    image: np.ndarray,
    centre: tuple[float, float],
    radii: tuple[float, float],
    strength: float,
    factor: float = 1.0,
    colour: Colour | None = None,
) -> None:
    """Multiply (or tint) an elliptic patch with soft edges of a float image, in place."""
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    distance = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    weight = (strength * np.exp(-distance))[..., None]
    target = image * factor if colour is None else np.asarray(colour, np.float32)
    image += weight * (target - image)
