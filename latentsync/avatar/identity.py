"""Identity of an avatar: all parameters that are constant during a clip, sampled from one seed."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0-255

SKIN_TONES = [(255, 224, 200), (244, 205, 176), (232, 184, 148), (214, 160, 122), (188, 132, 96), (152, 104, 74),
              (128, 88, 64), (108, 74, 56)]  # fmt: skip
HAIR_COLOURS = [(28, 22, 20), (52, 36, 26), (92, 60, 36), (140, 96, 52), (196, 156, 92), (150, 66, 34), (150, 148, 146),
                (214, 208, 200)]  # fmt: skip
EYE_COLOURS = [(70, 44, 28), (96, 64, 36), (84, 104, 64), (74, 108, 140), (96, 110, 118)]
HAIR_STYLES = ("bald", "short", "side", "long", "bun", "curly")
BEARDS = ("none", "none", "none", "stubble", "moustache", "full")


@dataclass(frozen=True)
class Identity:
    """Appearance of one avatar. Lengths are in pixels of the head canvas (see `head.CANVAS`)."""

    skin: Colour
    hair: Colour
    hair_style: str
    eye: Colour
    lips: Colour
    beard: str
    glasses: bool
    face_half_width: float
    chin_y: float
    jaw: float  # 0 pointed ... 1 square
    eye_distance: float
    eye_half_width: float
    eye_y: float
    brow_gap: float  # from eye to brow
    brow_thickness: float
    nose_length: float
    nose_half_width: float
    mouth_y: float
    mouth_half_width: float
    lip_thickness: float
    max_opening: float  # inner lip distance at aperture 1
    light_angle: float  # radians, direction of the light
    light_strength: float
    warmth: float  # colour of the light, -1 cold ... 1 warm
    background: tuple[Colour, Colour]
    clothes: Colour
    noise_sigma: float  # camera noise in grey levels
    texture_seed: int

    def to_dict(self) -> dict[str, Any]:
        """All parameters as JSON values."""
        return asdict(self)


def random_identity(rng: np.random.Generator) -> Identity:
    """Sample one identity from a continuous space."""
    skin = _between(SKIN_TONES, rng)
    eye_y = rng.uniform(166, 176)
    nose_length = rng.uniform(50, 60)
    mouth_y = eye_y + nose_length + rng.uniform(38, 46)
    return Identity(
        skin=skin,
        hair=_between(HAIR_COLOURS, rng),
        hair_style=str(rng.choice(HAIR_STYLES)),
        eye=_between(EYE_COLOURS, rng),
        lips=_lip_colour(skin, rng),
        beard=str(rng.choice(BEARDS)),
        glasses=bool(rng.random() < 0.2),
        face_half_width=rng.uniform(86, 100),
        chin_y=mouth_y + rng.uniform(54, 66),
        jaw=rng.uniform(0.1, 0.9),
        eye_distance=rng.uniform(78, 88),
        eye_half_width=rng.uniform(17, 21),
        eye_y=eye_y,
        brow_gap=rng.uniform(25, 31),
        brow_thickness=rng.uniform(5, 10),
        nose_length=nose_length,
        nose_half_width=rng.uniform(15, 22),
        mouth_y=mouth_y,
        mouth_half_width=rng.uniform(29, 38),
        lip_thickness=rng.uniform(7, 11),
        max_opening=rng.uniform(32, 42),
        light_angle=rng.uniform(-1.2, 1.2),
        light_strength=rng.uniform(0.08, 0.30),
        warmth=rng.uniform(-1, 1),
        background=(_any_colour(rng), _any_colour(rng)),
        clothes=_any_colour(rng),
        noise_sigma=rng.uniform(0.5, 3.0),
        texture_seed=int(rng.integers(2**31)),
    )


def _between(colours: list[Colour], rng: np.random.Generator) -> Colour:
    """A random mix of two neighbouring colours of a palette, with a little noise."""
    first = int(rng.integers(len(colours) - 1))
    mix = np.asarray(colours[first]) + rng.random() * (np.asarray(colours[first + 1]) - np.asarray(colours[first]))
    return _rgb(mix + rng.normal(0, 4, 3))


def _lip_colour(skin: Colour, rng: np.random.Generator) -> Colour:
    red = np.asarray(skin) * np.array([0.86, 0.56, 0.56]) + np.array([rng.uniform(0, 26), 0, rng.uniform(0, 12)])
    return _rgb(red)


def _any_colour(rng: np.random.Generator) -> Colour:
    return _rgb(rng.uniform(40, 220, 3))


def _rgb(values: np.ndarray) -> Colour:
    r, g, b = (int(v) for v in np.clip(np.round(values), 0, 255))
    return r, g, b
