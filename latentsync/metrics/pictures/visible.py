"""What the eye finds wrong in a repainted face: all measures of an output beside its reference, with their allowed bounds.

The reference is the true picture where there is one, else the input: the same head, with lips that were not repainted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latentsync.metrics.pictures.border import bar_visibility, border_steps
from latentsync.metrics.pictures.detail import flicker_ratio, sharpness_ratio, sharpness_to_face
from latentsync.metrics.pictures.image_quality import FrameArray
from latentsync.metrics.pictures.lower_face import jaw_error, person_difference


@dataclass(frozen=True)
class Measure:
    """One measure: how tables show it, and the allowed bounds of its values."""

    name: str
    label: str
    note: str  # one sentence without full stop
    low: float | None = None
    high: float | None = None
    digits: int = 2

    def allows(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def worst(self, values: Iterable[float]) -> float:
        """The value that is farthest from the best one: 1 for a ratio with two bounds, else 0."""
        best = 0.0 if self.low is None else 1.0
        return max(values, key=lambda value: abs(value - best))

    @property
    def bounds(self) -> str:
        """The bounds as text, such as `<= 1.0`."""
        if self.low is not None and self.high is not None:
            return f"{self.low} ... {self.high}"
        return f"<= {self.high}" if self.low is None else f">= {self.low}"


MEASURES: Sequence[Measure] = (
    Measure(
        "border_step",
        "colour step at border, ΔE",
        "colour inside minus outside the border of the repainted region, compared with the reference; about 1 is just visible",
        high=1.5,
    ),
    Measure(
        "border_step_skin",
        "colour step on skin, ΔE",
        "the same for the part of the border that always lies on still skin: above the bars and beside the nose",
        high=1.0,
    ),
    Measure(
        "bar_visibility",
        "bars beside nose",
        "step at the upright edges of the bars beside the nose, divided by the natural variation of the cheek; up to 1 invisible",
        high=1.0,
    ),
    Measure(
        "sharpness_ratio",
        "sharpness",
        "contrast of fine details in the repainted region, divided by that of the reference; 1 is equally sharp",
        low=0.85,
        high=1.15,
    ),
    Measure(
        "sharpness_to_face",
        "sharpness to face",
        "the same, divided by that ratio of the untouched face, so that coding the video again does not count",
        low=0.85,
        high=1.15,
    ),
    Measure(
        "jaw_error",
        "jaw line, % of width",
        "mean distance of the jaw line from the true one, in percent of the face's width; only where there is a true video",
        high=1.0,
    ),
    Measure(
        "person_difference",
        "lower face, ΔE",
        "difference of the lower face's mean colours over the clip: skin, beard, lips, outline; another person has 10 and more",
        high=1.5,
    ),
    Measure(
        "flicker_ratio",
        "flicker",
        "second difference in time of the repainted skin's colours, divided by that of the reference; 1 is as steady",
        low=0.9,
        high=1.1,
    ),
)


def visible_scores(output: FrameArray, reference: FrameArray, is_truth: bool) -> dict[str, float]:
    """The value of each of `MEASURES` by its name; those that cannot be computed are left out.

    Both are aligned faces, uint8 [t, r, r, 3] RGB, warped with the same matrices. `is_truth`: the reference is the true picture,
    which has the lips and the jaw that the output should have.
    """
    border, skin = border_steps(output, reference)
    jaw = jaw_error(output, reference) if is_truth else None
    scores = {
        "border_step": border,
        "border_step_skin": skin,
        "bar_visibility": bar_visibility(output, reference),
        "sharpness_ratio": sharpness_ratio(output, reference),
        "sharpness_to_face": sharpness_to_face(output, reference),
        "jaw_error": None if jaw is None else 100 * jaw,
        "person_difference": person_difference(output, reference),
        "flicker_ratio": flicker_ratio(output, reference),
    }
    return {name: value for name, value in scores.items() if value is not None}
