"""The head's surface: a grid with two slits, the mouth and the eyes, which moves with the expression.

Lengths are in cm. x runs to the picture's right, y up, z to the camera; the origin lies between the eyes, in the head's middle.
The grid has three bands from below: neck to lips, lips to eyes, eyes to crown. Neighbouring bands share a row of positions, except
where the mouth or an eye is open.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from latentsync.avatar.identity import Identity
from latentsync.avatar.mesh import Floats, Numbers, bell, bump

Cell = tuple[int, int]  # row and column of a vertex

COLUMNS = 161  # odd: the middle column is the middle of the face
CROWN_Y = 11.6
UPPER_SHARE = 0.35  # share of a mouth opening above the line of the lips; the jaw makes the share below it
EYE_Z = 6.02  # middle of the eyeballs
EYE_RADIUS = 1.55
LID_RADIUS = 1.64
JAW_AXIS = np.array([-1.5, 0.5], np.float32)  # y and z of the axis between the ears about which the jaw turns
JAW_REACH = 7.5  # cm from that axis to the chin

# Cross-sections of the head without features, from the chin's edge to the crown: height at the front, half width, depth at
# the front and at the back, and how much higher the row lies at the back.
PROFILE = np.array([
    # y,     half,  front, back, tilt
    [-11.3,  5.50,  7.75,  5.3,  5.0],
    [-10.6,  5.80,  8.25,  5.8,  4.6],
    [ -9.5,  6.00,  8.15,  6.4,  3.9],
    [ -8.3,  6.20,  8.20,  6.9,  3.0],
    [ -7.0,  6.42,  8.45,  7.4,  2.1],
    [ -5.2,  6.78,  8.50,  8.0,  1.1],
    [ -3.0,  7.12,  8.35,  8.7,  0.4],
    [  0.0,  7.30,  8.25,  9.4,  0.0],
    [  2.0,  7.36,  8.75,  9.8,  0.0],
    [  4.5,  7.28,  8.65,  9.9,  0.0],
    [  7.0,  6.75,  7.80,  9.5,  0.0],
    [  9.2,  5.30,  6.00,  7.8,  0.0],
    [ 10.6,  3.60,  3.90,  5.2,  0.0],
    [ 11.3,  1.80,  1.80,  2.4,  0.0],
    [ 11.6,  0.02,  0.02,  0.02, 0.0],
])  # fmt: skip
# The same below the chin's edge, from the neck's base upwards.
NECK = np.array([
    [-21.0,  7.60,  5.60,  6.0,  0.0],
    [-18.0,  5.90,  4.70,  5.6,  0.0],
    [-14.5,  5.35,  4.40,  5.4,  1.0],
    [-12.6,  5.25,  4.60,  5.3,  2.6],
    [-11.75, 5.30,  6.00,  5.3,  4.4],
    [-11.60, 5.40,  7.15,  5.3,  4.9],
])  # fmt: skip
# The nose's height and half width at shares of the way from its root to its base.
BRIDGE_HEIGHT = ([0, 0.12, 0.35, 0.65, 0.88, 0.97, 1.03, 1.10, 1.2], [0, 0.15, 0.65, 1.30, 1.78, 1.72, 1.25, 0.50, 0])
BRIDGE_WIDTH = ([0, 0.3, 0.7, 0.9, 1.2], [0.95, 0.88, 1.02, 1.15, 1.0])


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


@dataclass(frozen=True)
class Grid:
    """The surface at rest, without expression: `points` [r, COLUMNS, 3] in cm."""

    points: Floats
    lips_row: int  # first row of the middle band; the row before it is the upper edge of the lowest band
    eyes_row: int  # first row of the highest band
    chin_row: int  # first row above the neck
    angle: Floats  # [COLUMNS] in radians, 0 in the middle of the face
    level: Floats  # [r, 1]: height of each row at the middle of the face, in cm, before the chin is stretched


class Head:
    """The surface of one person's head. Columns run from the picture's left to its right, through the face."""

    def __init__(self, identity: Identity):
        self.identity = identity
        self.grid = self._build()

    # --- rest shape ---------------------------------------------------------------------------------------------

    def _build(self) -> Grid:
        mouth_y = self.identity.mouth_y
        turn = np.linspace(-1, 1, COLUMNS)
        angle = np.pi * (0.50 * turn + 0.50 * turn**3)
        low = _rows([(-21, -13, 9), (-13, -11.6, 7)], NECK)
        face_low = _rows([(-11.5, -9.5, 12), (-9.5, mouth_y - 1.5, 8), (mouth_y - 1.5, mouth_y, 16)], PROFILE, True)
        middle = _rows([(mouth_y, mouth_y + 1.3, 15), (mouth_y + 1.3, -1.2, 26), (-1.2, 0.0, 12)], PROFILE, True)
        high = _rows([(0.0, 1.6, 17), (1.6, 4.0, 13), (4.0, CROWN_Y, 20)], PROFILE, True)
        sections = np.concatenate([low, face_low, middle, high])
        lips_row = len(low) + len(face_low)
        return Grid(
            points=self._featured(self._plain(sections, angle)).astype(np.float32),
            lips_row=lips_row,
            eyes_row=lips_row + len(middle),
            chin_row=len(low),
            angle=angle.astype(np.float32),
            level=sections[:, :1].astype(np.float32),
        )

    def _plain(self, sections: Numbers, angle: Numbers) -> Numbers:
        """Positions of cross-sections [r, 5] without features, [r, COLUMNS, 3]."""
        person = self.identity
        y, half, front, back, tilt = (sections[:, i, None] for i in range(5))
        side, ahead = np.sin(angle), np.cos(angle)
        face = np.clip((y + 21) / 10, 0, 1)
        squareness = 2.0 + (0.10 + 0.35 * person.jaw) * bell((y + 10) / 3.5) + 0.12 * bell(y / 5)
        power = 2 / squareness
        below = bell((y + 9.5) / 4.5)
        half = half * (1 + face * (person.face_width - 1)) * (1 + 0.10 * (person.jaw - 0.5) * below)
        half = half * np.where(y < -12, person.neck_width, 1.0)
        x = half * np.sign(side) * np.abs(side) ** power
        z = np.where(ahead > 0, front, back) * np.sign(ahead) * np.abs(ahead) ** power
        raised = np.minimum(1 - ahead, 1.15) - 0.05 * bell(angle / 0.25)
        return np.stack(np.broadcast_arrays(x, self._with_chin(y, y + tilt * raised), z), -1)

    def _with_chin(self, y: Numbers, height: Numbers) -> Numbers:
        """Heights [r, COLUMNS] of rows at y [r, 1], stretched so that the chin lies where the person's does."""
        chin_y = self.identity.chin_y
        stretch = np.where(y < -9, (chin_y + 9) / (-11.3 + 9), 1.0)
        height = np.where((y < -9) & (y > -12.5), -9 + (height + 9) * stretch, height)
        return np.where(y <= -12.5, height + (chin_y + 11.3) * np.clip((y + 21) / 8.5, 0, 1), height)

    def _featured(self, points: Numbers) -> Numbers:
        """Plain positions with nose, eye sockets, brow, cheeks, lips, chin and folds."""
        person = self.identity
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        front = np.clip((z - 1) / 3, 0, 1)
        d = y - person.mouth_y
        add = np.zeros_like(z)
        for side in (-1, 1):
            self._add_side(add, x, y, side)
        self._add_nose(add, x, y)
        self._add_mouth(add, x, d)
        chin = y - (person.chin_y + 1.35)
        add += (0.45 + 0.35 * person.chin) * bump(x, chin, 1.5, 0.95)
        add -= 0.12 * person.chin_cleft * bump(x, chin, 0.22, 0.6)
        smile = np.where((np.abs(d) < 4) & (front > 0.2), 0.05 * person.smile * x**2 * bell(d / 1.2), 0)
        z = z + front * add
        z = np.where(front > 0.5, self._over_eyeballs(x, y, z), z)
        return np.stack([x, y + smile, z], -1)

    def _add_side(self, add: Numbers, x: Numbers, y: Numbers, side: int) -> None:
        """Add what a face has twice: eye socket, brow's ridge, cheek, and the folds beside nose and mouth."""
        person = self.identity
        eye, mouth, nose = side * person.eye_x, person.mouth_y, -person.nose_length
        add -= 0.95 * bump(x - eye + side * 0.1, y - 0.05, 1.9, 1.25)
        add -= 0.55 * bump(x - eye + side * 1.6, y - 0.3, 0.9, 1.1)
        add += 0.35 * person.brow_ridge * bump(x - eye, y - person.brow_y + 0.35, 2.3, 0.75)
        add += (0.40 + 0.25 * person.cheek) * bump(x - side * 4.7, y + 3.1, 2.0, 1.6)  # cheekbone
        add -= 0.35 * (1 - person.cheek) * bump(x - side * 4.6, y - mouth - 0.4, 1.7, 1.9)  # hollow
        add += 0.28 * bump(x - side * 2.9, y - mouth - 0.9, 1.0, 1.3)  # beside the mouth
        fold = x - side * (person.nose_width + 0.25 + 0.50 * np.clip(nose + 0.4 - y, 0, 4) ** 0.9)
        depth = (0.05 + 0.22 * person.age) * bell((y - (nose - 1.0)) / 1.3)
        add -= depth * bell(fold / 0.34)  # from the nose to the corner of the mouth
        add += 0.9 * depth * bell((fold - side * 0.65) / 0.6)
        add -= 0.12 * person.age * bump(x - eye + side * 0.4, y + 1.55, 1.1, 0.28)  # bag below the eye

    def _add_nose(self, add: Numbers, x: Numbers, y: Numbers) -> None:
        """Add the nose: bridge, tip, wings and nostrils."""
        person = self.identity
        nose = -person.nose_length
        add += 0.25 * person.brow_ridge * bump(x, y - 1.9, 1.4, 0.9)
        down = np.clip((0.9 - y) / (0.9 - nose), 0, 1.25)
        height = np.interp(down, *BRIDGE_HEIGHT) * (0.85 + 0.3 * person.nose_height)
        height = height + person.nose_bump * 0.35 * bell((down - 0.42) / 0.16)
        width = np.interp(down, *BRIDGE_WIDTH) * (0.75 + 0.25 * person.nose_width / 1.7)
        add += height * np.exp(-((np.abs(x) / width) ** 1.8))
        add += 0.45 * bump(x, y - nose - 0.55, 0.72, 0.55)
        for side in (-1, 1):
            wing = side * (person.nose_width - 0.55)
            add += 0.85 * np.exp(-((((x - wing) / 0.52) ** 2 + ((y - nose - 0.42) / 0.48) ** 2) ** 1.4))
            add -= 0.30 * bump(x - side * (person.nose_width + 0.12), y - nose - 0.45, 0.2, 0.5)
            add -= 0.55 * bump(x - side * 0.52, y - nose + 0.02, 0.30, 0.20)  # nostril

    def _add_mouth(self, add: Numbers, x: Numbers, d: Numbers) -> None:
        """Add the lips, the groove below the nose and the crease below the lower lip; `d` is the height above the lips' line."""
        person = self.identity
        arch = np.clip(1 - (x / (person.mouth_half + 0.25)) ** 2, 0, 1)
        upper, lower = self.lip_heights(x)
        add += 0.55 * bump(x, d, person.mouth_half + 1.1, 1.9)  # the teeth's bow under the lips
        full = 0.5 + 0.5 * person.lip_fullness
        add += np.where(d >= 0, 0.34, 0) * full * arch**0.6 * bell((d - 0.45 * upper) / (0.55 * upper + 0.05))
        add += np.where(d < 0, 0.42, 0) * full * arch**0.6 * bell((-d - 0.5 * lower) / (0.55 * lower + 0.05))
        add -= 0.20 * arch * bell(d / 0.13)  # the lips turn inwards at their line
        add -= 0.16 * bell(x / 0.28) * bell((d - upper - 0.55) / 0.55)
        add -= 0.34 * bell(x / 2.0) * bell((d + lower + 0.55) / 0.5)
        add -= 0.16 * bump(np.abs(x) - person.mouth_half - 0.15, d, 0.35, 0.4)  # corners

    def lip_heights(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """Height of the red of the upper and the lower lip at each x, in cm."""
        person = self.identity
        s = np.clip(np.abs(x) / person.mouth_half, 0, 1)
        arch = np.clip(1 - s**2, 0, 1)
        bow = 1 - 0.22 * np.exp(-((s / 0.13) ** 2)) + 0.10 * np.exp(-(((s - 0.28) / 0.18) ** 2))
        return person.lip_upper * arch**0.75 * bow, person.lip_lower * arch**0.62

    def _over_eyeballs(self, x: Numbers, y: Numbers, z: Numbers) -> Numbers:
        """Depth of skin that lies over the eyeballs: a soft maximum of the face and spheres a little larger than the eyes."""
        for side in (-1, 1):
            distance = np.sqrt((x - side * self.identity.eye_x) ** 2 + y**2)
            ball = (
                EYE_Z
                + np.sqrt(np.clip(LID_RADIUS**2 - distance**2, 0, None))
                - 3 * np.clip(distance - LID_RADIUS, 0, None)
            )
            share = np.clip(0.5 + 0.5 * (ball - z) / 0.3, 0, 1)
            z = z + share * (ball - z) + 0.3 * share * (1 - share)
        return z

    # --- motion -------------------------------------------------------------------------------------------------

    def opening(self, expression: Expression) -> float:
        """Distance of the inner lips at the middle of the mouth, in cm."""
        return expression.aperture * self.identity.max_opening

    def jaw_angle(self, expression: Expression) -> float:
        """Angle, in radians, by which the jaw is turned downwards."""
        return 0.62 * self.opening(expression) / JAW_REACH

    def mouth_half_width(self, expression: Expression) -> float:
        """Half the distance of the corners of the mouth, in cm."""
        stretch = 1 + (0.14 if expression.width > 0 else 0.32) * expression.width - 0.06 * expression.aperture
        return self.identity.mouth_half * stretch

    @cached_property
    def _weights(self) -> dict[str, Floats]:
        """How far each vertex takes part in each movement, [r, COLUMNS] each; from its rest position."""
        x, z = self.grid.points[..., 0], self.grid.points[..., 2]
        front = np.clip(z / 3, 0, 1)
        above_lips = np.broadcast_to(self.grid.level - self.identity.mouth_y, x.shape)
        named = self._mouth_weights(x, above_lips, front) | self._eye_weights(front)
        return {name: value.astype(np.float32) for name, value in named.items()}

    def _bands(self) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """The rows' numbers, and whether each lies below the lips, between lips and eyes, above the eyes; all [r, 1]."""
        grid = self.grid
        rows = np.arange(len(grid.points))[:, None]
        below, above = rows < grid.lips_row, rows >= grid.eyes_row
        return rows, below, ~below & ~above, above

    def _mouth_weights(self, x: Numbers, d: Numbers, front: Numbers) -> dict[str, Numbers]:
        """Weights of the jaw and the lips; `d` is the height above the lips' line."""
        rows, below, middle, _ = self._bands()
        half = self.identity.mouth_half
        beside, sunk = np.clip((np.abs(x) - half) / 2.6, 0, 1), np.clip(-d / 2.2, 0, 1)
        at_line = 0.45 * beside * beside * (3 - 2 * beside)
        jaw_below = at_line + (1 - at_line) * sunk * sunk * (3 - 2 * sunk)
        jaw = np.where(below, jaw_below, np.where(middle, at_line * bell(d / 2.2), 0))
        throat = np.clip((self.grid.chin_row - rows) / 9, 0, 1)
        jaw = np.where(rows < self.grid.chin_row, jaw * (1 - throat) ** 1.5, jaw)
        s = np.clip(np.abs(x) / half, 0, 1)
        slit = np.sqrt(np.clip(1 - s**2, 0, 1)) * front
        return {
            "jaw": jaw,
            "lower": np.where(below, slit * bell(d / 1.35), 0),
            "upper": np.where(middle, slit * bell(d / 1.25), 0),
            "mouth": bell(d / 1.9) * np.exp(-((x / 3.9) ** 4)) * front,
            "lip": np.where(below, bell((d + 0.35) / 0.6) * np.clip(1 - s**2, 0, 1) * front, 0),
        }

    def _eye_weights(self, front: Numbers) -> dict[str, Numbers]:
        """Weights of the lids (> 0 for the upper) and the brows, and where skin lies over the eyes."""
        person = self.identity
        x, y = self.grid.points[..., 0], self.grid.points[..., 1]
        _, _, middle, above = self._bands()
        lids, brow, eyes = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
        for side in (-1, 1):
            across = x - side * person.eye_x
            u = across / person.eye_half
            eyes += (np.abs(u) < 1.25) & (np.abs(y) < 1.6) & (front > 0.5)
            lid = np.clip(1 - np.abs(u) ** 2.2, 0, 1) ** 0.7 * front
            lids += np.where(above, lid * bell(y / 0.85), 0)
            lids -= np.where(middle, 0.40 * lid * bell(y / 0.7), 0)
            brow += np.clip(y / 0.8, 0, 1) * np.where(above, bump(across, y - person.brow_y, 2.6, 1.3), 0)
        return {"lids": lids, "brow": brow, "eyes": eyes}

    def pose(self, expression: Expression) -> Floats:
        """Positions [r, COLUMNS, 3] with this expression, in the axes of the head."""
        person, w = self.identity, self._weights
        opening = self.opening(expression)
        points = self.grid.points.copy()
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        angle = self.jaw_angle(expression) * w["jaw"]  # small, so its sine is the angle and its cosine 1
        dy, dz = -angle * (z - JAW_AXIS[1]), angle * (y - JAW_AXIS[0])
        y += dy - (1 - UPPER_SHARE) * opening * w["lower"] + UPPER_SHARE * opening * w["upper"]
        z += dz
        stretch = self.mouth_half_width(expression) / person.mouth_half - 1
        x += stretch * x * w["mouth"]
        z += w["mouth"] * (0.55 * max(0.0, -expression.width) - 0.20 * max(0.0, expression.width))
        z -= 0.38 * expression.tuck * w["lip"]
        y += 0.22 * expression.tuck * w["lip"]
        lids = person.eye_opening * (1 - expression.blink) * w["lids"]
        y += lids + (0.45 * expression.brow_raise) * w["brow"]
        near = self._around_eyes
        z[near] = np.where(w["eyes"][near] > 0, self._over_eyeballs(x[near], y[near], z[near]), z[near])
        return points

    @property
    def _around_eyes(self) -> tuple[slice, slice]:
        """Rows and columns among which all skin over the eyeballs lies, with the lids in any position."""
        row, middle = self.grid.eyes_row, COLUMNS // 2
        return slice(row - 14, row + 18), slice(middle - 36, middle + 37)

    def landmark_cells(self) -> dict[str, NDArray[np.intp]]:
        """Rows and columns of the vertices nearest to the 68 usual landmarks, by part, [n, 2] each; the parts in order."""
        cells = {"jaw": self._jaw_cells(), "brows": self._brow_cells(), "nose": self._nose_cells()}
        cells |= {"eyes": self._lid_cells(), **self._lip_cells()}
        return {name: np.array(found, np.intp) for name, found in cells.items()}

    def _jaw_cells(self) -> list[Cell]:
        grid = self.grid
        turned = [int(np.argmin(np.abs(grid.angle - a))) for a in np.linspace(0, 1.62, 9)]
        edge = grid.chin_row + 1
        rows = [edge] * 6 + [edge + 5, grid.lips_row + 12, grid.eyes_row - 8]
        right = list(zip(rows, turned, strict=True))
        return [(row, COLUMNS - 1 - column) for row, column in right[::-1]] + right[1:]

    def _brow_cells(self) -> list[Cell]:
        person = self.identity
        along = [(side, u) for side in (-1, 1) for u in np.linspace(-1, 1, 5)]
        places = [(side * person.eye_x + u * 2.1, person.brow_y + 0.25 * (1 - u * u)) for side, u in along]
        return [self._cell(x, y, self.grid.eyes_row, None) for x, y in places]

    def _nose_cells(self) -> list[Cell]:
        person = self.identity
        bridge = [(0.0, y) for y in np.linspace(-0.3, -person.nose_length + 0.55, 4)]
        base = [(x, -person.nose_length - 0.15) for x in np.linspace(-1, 1, 5) * 0.8 * person.nose_width]
        return [self._cell(x, y, self.grid.lips_row, self.grid.eyes_row) for x, y in bridge + base]

    def _lid_cells(self) -> list[Cell]:
        person, row = self.identity, self.grid.eyes_row
        found = []
        for side in (-1, 1):
            x, half = side * person.eye_x, person.eye_half
            found += [self._cell(x + u * half, 0.0, row, row + 1) for u in (-1.0, -0.35, 0.35, 1.0)]
            found += [self._cell(x + u * half, 0.0, row - 1, row) for u in (0.35, -0.35)]
        return found

    def _lip_cells(self) -> dict[str, list[Cell]]:
        row, y = self.grid.lips_row, self.identity.mouth_y
        spread = np.array([-1, -0.62, -0.25, 0, 0.25, 0.62, 1]) * self.identity.mouth_half
        up, down = self.lip_heights(spread)
        outer = [self._cell(x, y + h, row, self.grid.eyes_row) for x, h in zip(spread, up, strict=True)]
        outer += [self._cell(x, y - h, 0, row) for x, h in list(zip(spread, down, strict=True))[-2:0:-1]]
        inner = [self._cell(x, y, row, row + 1) for x in spread[[0, 1, 3, 5, 6]] * 0.96]
        inner += [self._cell(x, y, row - 1, row) for x in spread[[5, 3, 1]] * 0.96]
        return {"lips": outer, "inner_lips": inner}

    def _cell(self, x: float, y: float, first_row: int, stop_row: int | None) -> Cell:
        """Row and column, among some rows, of the vertex in front that is nearest to (x, y) at rest."""
        part = self.grid.points[first_row:stop_row]
        distance = (part[..., 0] - x) ** 2 + (part[..., 1] - y) ** 2 + np.where(part[..., 2] < 1, 1e6, 0)
        row, column = np.unravel_index(int(np.argmin(distance)), distance.shape)
        return first_row + int(row), int(column)


def _rows(spans: list[tuple[float, float, int]], table: Numbers, inclusive: bool = False) -> Numbers:
    """Cross-sections at evenly spaced heights within each span (from, to, number), interpolated in a table [n, 5]."""
    heights = [np.linspace(a, b, n, endpoint=False) for a, b, n in spans]
    if inclusive:
        heights.append(np.array([spans[-1][1]]))
    y = np.concatenate(heights)
    columns = [PchipInterpolator(table[:, 0], table[:, i])(np.clip(y, table[0, 0], table[-1, 0])) for i in range(1, 5)]
    return np.stack([y, *columns], 1)
