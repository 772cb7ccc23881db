"""In which frames the lower face looks as it mostly does: free, seen itself, and turned as usual.

A face that speaks moves all the time, but only in some ways: how the numbers of `latentsync.face.lower_face` change within a few
frames tells which ways, and how far. Distances from the person's usual look are measured in these movements (Mahalanobis, 1936),
so an open mouth is near, and what speech does not do is far. The usual look is the middle of the closest half of the frames
(Rousseeuw, 1985), which frames that look otherwise do not move. Where these are the majority, because something is in front of
the mouth most of the time, the lips tell: the look that shows them is the usual one. Who is covered throughout looks the same
throughout.
"""

import numpy as np
from numpy.typing import NDArray

from latentsync.face.lower_face import redness_of_lips

BoolArray = NDArray[np.bool_]
Values = NDArray[np.float32]

LAG = 3  # frames between which movement is measured
CALM = 0.5  # share of the movements that count: a cut or a hand that comes makes the largest ones
NOISE = 1.0  # CIELAB units of movement that everything may have
YAW_UNIT = 2.0  # degrees that count as one CIELAB unit
MIN_FRAMES = 24  # seen frames from which on anything can be said
MIN_OTHERS, MIN_SHARE = 12, 0.2  # frames of another look, and their share, from which on it can be the usual one
NEAR = 0.25  # share of the frames that are near for sure
LIMIT = 2.5  # times the distance of these: the farthest usual frame
LEAST_LIMIT = 10.0  # below this distance nothing is unusual
MORE_LIPS, SURE_LIPS = 2.0, 0.8  # how many times redder, and how much, lips must be to outvote the majority
SLACK = 3  # frames beside unusual ones that are unusual too: something comes or goes
ROUNDS = 8  # until the closest half stays the same


def usual_frames(lower_face: NDArray[np.int8], yaw_deg: NDArray[np.floating], seen: BoolArray) -> BoolArray:
    """bool [n]: the frames of one person that are usual; `seen` [n] are those whose `lower_face` [n, d] and `yaw_deg` are known.

    Frames that are not seen are not usual, and where too few are seen to tell, all of these are.
    """
    usual = seen.copy()
    if seen.sum() < MIN_FRAMES:
        return usual
    known = lower_face[seen]
    usual[seen] = _alike(known, np.column_stack([known, yaw_deg[seen] / YAW_UNIT]).astype(np.float32))
    around = np.convolve(seen & ~usual, np.ones(2 * SLACK + 1), "same")
    return np.asarray(usual & (around < 0.5))


def _alike(faces: NDArray[np.int8], values: Values) -> BoolArray:
    """bool [n]: which of the frames with these values [n, d] have the usual look."""
    everyone = np.ones(len(values), bool)
    alike = _near_middle(_in_units_of_movement(values, everyone), everyone)
    others = ~alike
    if others.sum() >= max(MIN_OTHERS, MIN_SHARE * len(values)):
        needed = MORE_LIPS * max(redness_of_lips(faces[alike]), 0.0) + SURE_LIPS
        if redness_of_lips(faces[others]) > needed:
            alike = _near_middle(_in_units_of_movement(values, others), others)
    return alike


def _in_units_of_movement(values: Values, among: BoolArray) -> Values:
    """`values` [n, d] turned and scaled so that the usual movement within `LAG` frames is one in every direction."""
    moved = (values[LAG:] - values[:-LAG])[among[LAG:] & among[:-LAG]]
    far = np.square(moved).sum(axis=1)
    calm = moved[far <= np.quantile(far, CALM)] if len(moved) else moved
    spread = calm.T.astype(np.float64) @ calm / max(1, 2 * len(calm)) + NOISE**2 * np.eye(values.shape[1])
    variances, directions = np.linalg.eigh(spread)
    return np.asarray(values @ (directions / np.sqrt(variances)).astype(np.float32))


def _near_middle(values: Values, among: BoolArray) -> BoolArray:
    """bool [n]: which values [n, d] lie near the middle of the closest half of those `among` them."""
    middle = np.median(values[among], axis=0)
    for _ in range(ROUNDS):
        distance = np.sqrt(np.square(values - middle).sum(axis=1))
        middle = values[among & (distance <= np.median(distance[among]))].mean(axis=0)
    distance = np.sqrt(np.square(values - middle).sum(axis=1))
    return np.asarray(distance <= max(LIMIT * np.quantile(distance[among], NEAR), LEAST_LIMIT))
