"""Who is who: the tracks of a video gathered into people, across gaps and cuts.

The rule. Tracks of one shot that follow each other at the same place are one person unless they look clearly different. Tracks
that are seen together are different people. Beyond that, appearance decides (`latentsync.face.appearance`, no face
recognition): alike from `SAME` on, clearly different below `DIFFERENT`. In between it is unsure; then somebody who is alone
in the shot counts as the most similar person known, so that a video of one speaker never loses a shot to a change of light,
and somebody in a shot with others stays a person of their own.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.appearance import THUMBNAIL, likeness
from latentsync.face.detection.tracking import overlap
from latentsync.inference.faces.observe import Observations

SAME, DIFFERENT = 0.72, 0.6  # similarities, see the rule above
MIN_FRAMES = 3  # shorter tracks are taken for mistakes, unless the shot is as short
NEXT_FRAMES = 60  # gap in which a track may go on as another one
SAME_PLACE = 0.3  # overlap of the boxes before and after that gap
TOGETHER = 3  # frames in which two tracks must be seen at once to be two people
MAX_LOOKS = 32  # appearances that a person is compared by


@dataclass
class Chain:
    """Tracks of one shot that are one person for sure."""

    tracks: list[int]
    shot: int
    start: int
    stop: int  # first frame after the last one
    frames: int
    looks: FloatArray  # [k, d]
    first_box: FloatArray
    last_box: FloatArray


@dataclass(frozen=True)
class Person:
    """Somebody seen in the video. Numbers count from 1: shot by shot in order of appearance, from left to right."""

    number: int
    tracks: tuple[int, ...]
    frames: int  # in which the person is seen
    spans: tuple[tuple[int, int], ...]  # [start, stop) of the frames from the first to the last of every track
    thumbnail: FrameArray  # uint8 [96, 96, 3], from the longest track that has one
    looks: FloatArray = field(repr=False)  # [k, d]


def find_people(seen: Observations) -> list[Person]:
    """Everybody in the video, in the order of their numbers."""
    chains = chain_tracks(track_chains(seen))
    apart = seen_together(seen, chains)
    groups = group_chains(chains, apart)
    groups.sort(key=lambda group: min((c.shot, float(c.first_box[[0, 2]].mean()), c.start) for c in group))
    return [_person(seen, number, group) for number, group in enumerate(groups, 1)]


def track_chains(seen: Observations) -> list[Chain]:
    """Every track that is no mistake as a chain of its own, in order of their beginnings."""
    shots = seen.shot
    lengths = np.bincount(shots)
    order = np.argsort(seen.track, kind="stable")
    numbers, first = np.unique(seen.track[order], return_index=True)
    bounds = [*first.tolist(), len(order)]
    looks = _by_track(seen)
    chains = []
    for number, start, stop in zip(numbers.tolist(), bounds, bounds[1:], strict=False):
        rows = order[start:stop]
        begin, end = int(seen.frame[rows[0]]), int(seen.frame[rows[-1]])
        shot = int(shots[begin])
        if len(rows) >= min(MIN_FRAMES, lengths[shot]):
            boxes = seen.box[rows[0]], seen.box[rows[-1]]
            chains.append(Chain([number], shot, begin, end + 1, len(rows), looks[number], *boxes))
    return sorted(chains, key=lambda chain: (chain.start, chain.tracks))


def _by_track(seen: Observations) -> dict[int, FloatArray]:
    order = np.argsort(seen.look_track, kind="stable")
    numbers, first = np.unique(seen.look_track[order], return_index=True)
    parts = np.split(seen.looks[order].astype(np.float32), first[1:]) if len(first) else []
    return dict(zip(numbers.tolist(), parts, strict=True))


def chain_tracks(tracks: list[Chain]) -> list[Chain]:
    """Join tracks of one shot that follow each other at the same place and do not look clearly different."""
    done: list[Chain] = []
    open_: list[Chain] = []
    for track in tracks:
        late = [c for c in open_ if c.shot != track.shot or track.start - c.stop > NEXT_FRAMES]
        done += late
        open_ = [c for c in open_ if not any(c is other for other in late)]
        before = [c for c in open_ if c.stop <= track.start and _continues(c, track)]
        if before:
            _extend(max(before, key=lambda c: overlap(_box(c.last_box), _box(track.first_box))), track)
        else:
            open_.append(track)
    return done + open_


def _continues(chain: Chain, track: Chain) -> bool:
    at_place = overlap(_box(chain.last_box), _box(track.first_box)) >= SAME_PLACE
    return at_place and likeness(chain.looks, track.looks) >= DIFFERENT


def _extend(chain: Chain, track: Chain) -> None:
    chain.tracks = chain.tracks + track.tracks
    chain.stop, chain.frames, chain.last_box = track.stop, chain.frames + track.frames, track.last_box
    chain.looks = thinned(np.concatenate([chain.looks, track.looks]))


def thinned(looks: FloatArray) -> FloatArray:
    """At most `MAX_LOOKS` appearances, evenly chosen."""
    if len(looks) <= MAX_LOOKS:
        return looks
    return looks[np.linspace(0, len(looks) - 1, MAX_LOOKS).round().astype(int)]


def seen_together(seen: Observations, chains: list[Chain]) -> dict[int, set[int]]:
    """For every chain's index those of the chains that are in the picture at the same time."""
    chain_of = {track: index for index, chain in enumerate(chains) for track in chain.tracks}
    counts: dict[tuple[int, int], int] = defaultdict(int)
    starts = np.flatnonzero(np.diff(seen.frame, prepend=-1))
    for rows in np.split(np.arange(len(seen.frame)), starts[1:]):
        if len(rows) > 1:
            present = sorted({chain_of[t] for t in seen.track[rows].tolist() if t in chain_of})
            for a, b in ((a, b) for a in present for b in present if a != b):
                counts[a, b] += 1
    apart: dict[int, set[int]] = defaultdict(set)
    for (a, b), frames in counts.items():
        if frames >= TOGETHER:
            apart[a].add(b)
    return apart


def group_chains(chains: list[Chain], apart: dict[int, set[int]]) -> list[list[Chain]]:
    """Chains gathered into people by appearance, the longest first; see the rule above."""
    in_shot: dict[int, int] = defaultdict(int)
    for chain in chains:
        in_shot[chain.shot] += 1
    groups: list[list[int]] = []
    looks: list[FloatArray] = []
    for index in sorted(range(len(chains)), key=lambda i: (-chains[i].frames, i)):
        chain = chains[index]
        alike = [
            -1.0 if apart[index] & set(group) else likeness(chain.looks, known)
            for group, known in zip(groups, looks, strict=True)
        ]
        needed = DIFFERENT if in_shot[chain.shot] == 1 else SAME
        best = int(np.argmax(alike)) if alike else -1
        if best >= 0 and alike[best] >= needed:
            groups[best].append(index)
            looks[best] = thinned(np.concatenate([looks[best], chain.looks]))
        else:
            groups.append([index])
            looks.append(chain.looks)
    return [[chains[index] for index in group] for group in groups]


def _person(seen: Observations, number: int, group: list[Chain]) -> Person:
    chains = sorted(group, key=lambda chain: chain.start)
    tracks = [track for chain in chains for track in chain.tracks]
    rows = np.isin(seen.track, tracks)
    return Person(
        number=number,
        tracks=tuple(sorted(tracks)),
        frames=len(np.unique(seen.frame[rows])),
        spans=tuple((chain.start, chain.stop) for chain in chains),
        thumbnail=_thumbnail(seen, tracks),
        looks=thinned(np.concatenate([chain.looks for chain in chains])),
    )


def _thumbnail(seen: Observations, tracks: list[int]) -> FrameArray:
    """The thumbnail of the longest of the tracks; black where none was kept."""
    lengths = {track: int((seen.track == track).sum()) for track in tracks}
    own = [index for index, track in enumerate(seen.thumbnail_track.tolist()) if track in lengths]
    if not own:
        return np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    return np.asarray(seen.thumbnails[max(own, key=lambda i: lengths[int(seen.thumbnail_track[i])])])


def _box(box: FloatArray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(side) for side in box)
    return x0, y0, x1, y1
