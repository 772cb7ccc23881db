"""Identity of an avatar: all parameters that are constant during a clip, sampled from one seed."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0-255

SKIN_TONES = [(240, 205, 186), (232, 190, 166), (220, 172, 142), (204, 152, 120), (178, 126, 94), (146, 98, 70),
              (112, 74, 54), (82, 54, 42)]  # fmt: skip
HAIR_COLOURS = [(18, 14, 13), (34, 24, 19), (58, 40, 28), (92, 64, 42), (142, 108, 70), (124, 62, 38), (120, 118, 116),
                (186, 182, 176)]  # fmt: skip
EYE_COLOURS = [(58, 36, 22), (84, 54, 30), (82, 96, 58), (70, 104, 134), (92, 106, 114)]
HAIR_STYLES = ("bald", "short", "side", "long", "bun", "curly")
EXPOSED_TO = 0.15  # brightness of skin, linear, below which the camera's exposure rises
BEARDS = ("none", "none", "none", "stubble", "moustache", "full")


@dataclass(frozen=True)
class Identity:
    """Appearance of one avatar. Lengths are in cm, shares in [0, 1] unless noted."""

    skin: Colour
    hair: Colour
    hair_style: str
    hair_volume: float
    eye: Colour
    lips: Colour
    beard: str
    glasses: bool
    make_up: float  # strength of lipstick and eye shadow
    age: float  # folds, bags and wrinkles
    freckles: float
    redness: float
    oiliness: float
    face_width: float  # factor around 1
    neck_width: float  # factor around 1
    chin_y: float
    chin: float
    chin_cleft: float
    jaw: float  # 0 pointed ... 1 square
    cheek: float
    eye_x: float  # from the middle of the face to the middle of an eye
    eye_half: float
    eye_opening: float  # of the upper lid
    brow_y: float
    brow_ridge: float
    brow_thickness: float
    nose_length: float  # from the line of the eyes to the nose's base
    nose_width: float  # half the width of its wings
    nose_height: float
    nose_bump: float
    mouth_y: float
    mouth_half: float
    lip_upper: float
    lip_lower: float
    lip_fullness: float
    smile: float  # -1 ... 1, curve of the closed mouth
    max_opening: float  # inner lip distance at aperture 1
    teeth: Colour
    clothes: Colour
    clothes_style: str
    light_angle: float  # radians, direction of the key light: 0 from the camera, > 0 from the picture's right
    light_height: float  # radians above the horizon
    light_strength: float  # of the key light in relation to the ambient light
    light_softness: float
    warmth: float  # colour of the light, -1 cold ... 1 warm
    noise_sigma: float  # camera noise in grey levels
    texture_seed: int

    @property
    def exposure(self) -> float:
        """Gain of the camera, which exposes dark skin longer; on linear light, at least 1."""
        return _exposure(self.skin)

    def to_dict(self) -> dict[str, Any]:
        """All parameters as JSON values."""
        return asdict(self)


def random_identity(rng: np.random.Generator) -> Identity:
    """Sample one identity from a continuous space."""
    skin = _between(SKIN_TONES, rng)
    nose_length = rng.uniform(4.5, 5.3)
    mouth_y = -nose_length - rng.uniform(2.0, 2.5)
    lips = rng.uniform(0.62, 1.0)
    style = str(rng.choice(HAIR_STYLES))
    feminine = style in ("long", "bun") or rng.random() < 0.25
    beard = "none" if feminine else str(rng.choice(BEARDS))
    age = rng.uniform(0, 1) ** 1.3
    hair = _between(HAIR_COLOURS[: 5 if age < 0.5 else 8], rng)
    return Identity(
        skin=skin,
        hair=hair,
        hair_style=style,
        hair_volume=rng.uniform(0, 1),
        eye=_between(EYE_COLOURS[:2] if _exposure(skin) > 1 else EYE_COLOURS, rng),
        lips=_lip_colour(skin, rng),
        beard=beard,
        glasses=bool(rng.random() < 0.2),
        make_up=rng.uniform(0.3, 1.0) if feminine and rng.random() < 0.6 else 0.0,
        age=age,
        freckles=rng.uniform(0, 1) ** 3,
        redness=rng.uniform(0, 1),
        oiliness=rng.uniform(0, 1),
        face_width=rng.uniform(0.92, 1.04),
        neck_width=rng.uniform(0.88, 0.97) if feminine else rng.uniform(0.98, 1.10),
        chin_y=mouth_y - rng.uniform(3.9, 4.7),
        chin=rng.uniform(0, 1),
        chin_cleft=float(rng.random() < 0.2) * rng.uniform(0.3, 1),
        jaw=rng.uniform(0.0, 0.6) if feminine else rng.uniform(0.2, 1.0),
        cheek=rng.uniform(0, 1),
        eye_x=rng.uniform(3.0, 3.3),
        eye_half=rng.uniform(1.32, 1.50),
        eye_opening=rng.uniform(0.36, 0.56),
        brow_y=rng.uniform(1.85, 2.35),
        brow_ridge=rng.uniform(0.0, 0.5) if feminine else rng.uniform(0.3, 1.0),
        brow_thickness=rng.uniform(0.28, 0.45) if feminine else rng.uniform(0.42, 0.75),
        nose_length=nose_length,
        nose_width=rng.uniform(1.5, 2.05),
        nose_height=rng.uniform(0, 1),
        nose_bump=rng.uniform(-0.6, 1.0),
        mouth_y=mouth_y,
        mouth_half=rng.uniform(2.25, 2.75),
        lip_upper=lips * rng.uniform(0.75, 0.95),
        lip_lower=lips * rng.uniform(0.95, 1.2),
        lip_fullness=rng.uniform(0, 1),
        smile=rng.uniform(-0.5, 0.8),
        max_opening=rng.uniform(2.0, 2.6),
        teeth=_between([(236, 230, 218), (214, 202, 176)], rng),
        clothes=_any_colour(rng),
        clothes_style=str(rng.choice(["round", "v", "collar"])),
        light_angle=rng.uniform(-1.1, 1.1),
        light_height=rng.uniform(0.15, 0.9),
        light_strength=rng.uniform(0.35, 1.0),
        light_softness=rng.uniform(0.3, 1.0),
        warmth=rng.uniform(-1, 1),
        noise_sigma=rng.uniform(0.5, 3.0),
        texture_seed=int(rng.integers(2**31)),
    )


def _exposure(skin: Colour) -> float:
    red, green, blue = ((level / 255) ** 2.2 for level in skin)
    return max(1.0, (EXPOSED_TO / (0.21 * red + 0.72 * green + 0.07 * blue)) ** 0.6)


def _between(colours: list[Colour], rng: np.random.Generator) -> Colour:
    """A random mix of two neighbouring colours of a palette, with a little noise."""
    first = int(rng.integers(len(colours) - 1))
    mix = np.asarray(colours[first]) + rng.random() * (np.asarray(colours[first + 1]) - np.asarray(colours[first]))
    return _rgb(mix + rng.normal(0, 3, 3))


def _lip_colour(skin: Colour, rng: np.random.Generator) -> Colour:
    red = np.asarray(skin) * np.array([0.90, 0.64, 0.64]) + np.array([rng.uniform(0, 22), 0, rng.uniform(0, 12)])
    return _rgb(red)


def _any_colour(rng: np.random.Generator) -> Colour:
    return _rgb(rng.uniform(30, 200, 3))


def _rgb(values: np.ndarray) -> Colour:
    r, g, b = (int(v) for v in np.clip(np.round(values), 0, 255))
    return r, g, b
