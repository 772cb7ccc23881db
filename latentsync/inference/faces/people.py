"""Groups the face tracks of a video into people, across gaps and cuts.

Consecutive tracks at the same place in one shot are one person unless their appearance is clearly different. Tracks that are
visible at the same time are different people. Otherwise the similarity of the appearance descriptors decides
(`latentsync.face.appearance`, no face recognition): the same person from `SAME` on. A person alone in a shot is the most similar
known one from `ALONE` on already, so that a video of one speaker does not lose a shot because of a change of light.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from latentsync.face.align import FloatArray, FrameArray
from latentsync.face.appearance import THUMBNAIL, similarity
from latentsync.face.detection.tracking import overlap
from latentsync.inference.faces.tracks import FaceTracks

SAME, ALONE = 0.72, 0.68  # similarities of one person, see above and docs/faces.md
DIFFERENT = 0.6  # tracks that follow each other at one place are different people below this similarity
MIN_FRAMES = 3  # shorter tracks are ignored as false detections, unless the shot is as short
NEXT_FRAMES = 60  # longest gap between consecutive tracks of one person in a shot
SAME_PLACE = 0.3  # least IoU of the boxes before and after that gap
TOGETHER = 3  # frames with both tracks from which they are two people
MAX_DESCRIPTORS = 32  # kept per person


@dataclass
class Chain:
    """Consecutive tracks of one shot that are one person."""

    tracks: list[int]
    shot: int
    start: int
    stop: int  # first frame after the last one
    frames: int
    descriptors: FloatArray  # [k, d]
    first_box: FloatArray
    last_box: FloatArray


@dataclass(frozen=True)
class Person:
    """A person in the video. Numbers start at 1, in the order of the shots, and from left to right within a shot."""

    number: int
    tracks: tuple[int, ...]
    frames: int  # number of frames that show the person
    spans: tuple[tuple[int, int], ...]  # [start, stop) frames of every chain of tracks
    thumbnail: FrameArray  # uint8 [96, 96, 3], from the longest track that has one
    descriptors: FloatArray = field(repr=False)  # [k, d]


def find_people(face_tracks: FaceTracks) -> list[Person]:
    """All people of the video, in the order of their numbers."""
    chains = chain_tracks(track_chains(face_tracks))
    apart = visible_together(face_tracks, chains)
    groups = group_chains(chains, apart)
    groups.sort(key=lambda group: min((c.shot, float(c.first_box[[0, 2]].mean()), c.start) for c in group))
    return [_person(face_tracks, number, group) for number, group in enumerate(groups, 1)]


def track_chains(face_tracks: FaceTracks) -> list[Chain]:
    """One chain for every track that is not a false detection, sorted by start."""
    shots = face_tracks.shot
    lengths = np.bincount(shots)
    order = np.argsort(face_tracks.track, kind="stable")
    numbers, first = np.unique(face_tracks.track[order], return_index=True)
    bounds = [*first.tolist(), len(order)]
    descriptors = _by_track(face_tracks)
    chains = []
    for number, start, stop in zip(numbers.tolist(), bounds, bounds[1:], strict=False):
        rows = order[start:stop]
        begin, end = int(face_tracks.frame[rows[0]]), int(face_tracks.frame[rows[-1]])
        shot = int(shots[begin])
        if len(rows) >= min(MIN_FRAMES, lengths[shot]):
            boxes = face_tracks.box[rows[0]], face_tracks.box[rows[-1]]
            chains.append(Chain([number], shot, begin, end + 1, len(rows), descriptors[number], *boxes))
    return sorted(chains, key=lambda chain: (chain.start, chain.tracks))


def _by_track(face_tracks: FaceTracks) -> dict[int, FloatArray]:
    order = np.argsort(face_tracks.descriptor_track, kind="stable")
    numbers, first = np.unique(face_tracks.descriptor_track[order], return_index=True)
    parts = np.split(face_tracks.descriptors[order].astype(np.float32), first[1:]) if len(first) else []
    return dict(zip(numbers.tolist(), parts, strict=True))


def chain_tracks(tracks: list[Chain]) -> list[Chain]:
    """Join consecutive tracks of one shot at the same place unless their appearance is clearly different."""
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
    return at_place and similarity(chain.descriptors, track.descriptors) >= DIFFERENT


def _extend(chain: Chain, track: Chain) -> None:
    chain.tracks = chain.tracks + track.tracks
    chain.stop, chain.frames, chain.last_box = track.stop, chain.frames + track.frames, track.last_box
    chain.descriptors = subsample(np.concatenate([chain.descriptors, track.descriptors]))


def subsample(descriptors: FloatArray) -> FloatArray:
    """At most `MAX_DESCRIPTORS` of the descriptors, evenly spaced."""
    if len(descriptors) <= MAX_DESCRIPTORS:
        return descriptors
    return descriptors[np.linspace(0, len(descriptors) - 1, MAX_DESCRIPTORS).round().astype(int)]


def visible_together(face_tracks: FaceTracks, chains: list[Chain]) -> dict[int, set[int]]:
    """For the index of every chain, the indices of the chains that are visible at the same time."""
    chain_of = {track: index for index, chain in enumerate(chains) for track in chain.tracks}
    counts: dict[tuple[int, int], int] = defaultdict(int)
    starts = np.flatnonzero(np.diff(face_tracks.frame, prepend=-1))
    for rows in np.split(np.arange(len(face_tracks.frame)), starts[1:]):
        if len(rows) > 1:
            present = sorted({chain_of[t] for t in face_tracks.track[rows].tolist() if t in chain_of})
            for a, b in ((a, b) for a in present for b in present if a != b):
                counts[a, b] += 1
    apart: dict[int, set[int]] = defaultdict(set)
    for (a, b), frames in counts.items():
        if frames >= TOGETHER:
            apart[a].add(b)
    return apart


def group_chains(chains: list[Chain], apart: dict[int, set[int]]) -> list[list[Chain]]:
    """Group chains into people by appearance, the longest chains first; see the top of the file."""
    in_shot: dict[int, int] = defaultdict(int)
    for chain in chains:
        in_shot[chain.shot] += 1
    groups: list[list[int]] = []
    descriptors: list[FloatArray] = []
    for index in sorted(range(len(chains)), key=lambda i: (-chains[i].frames, i)):
        chain = chains[index]
        scores = [
            -1.0 if apart[index] & set(group) else similarity(chain.descriptors, known)
            for group, known in zip(groups, descriptors, strict=True)
        ]
        needed = ALONE if in_shot[chain.shot] == 1 else SAME
        best = int(np.argmax(scores)) if scores else -1
        if best >= 0 and scores[best] >= needed:
            groups[best].append(index)
            descriptors[best] = subsample(np.concatenate([descriptors[best], chain.descriptors]))
        else:
            groups.append([index])
            descriptors.append(chain.descriptors)
    return [[chains[index] for index in group] for group in groups]


def _person(face_tracks: FaceTracks, number: int, group: list[Chain]) -> Person:
    chains = sorted(group, key=lambda chain: chain.start)
    tracks = [track for chain in chains for track in chain.tracks]
    rows = np.isin(face_tracks.track, tracks)
    return Person(
        number=number,
        tracks=tuple(sorted(tracks)),
        frames=len(np.unique(face_tracks.frame[rows])),
        spans=tuple((chain.start, chain.stop) for chain in chains),
        thumbnail=_thumbnail(face_tracks, tracks),
        descriptors=subsample(np.concatenate([chain.descriptors for chain in chains])),
    )


def _thumbnail(face_tracks: FaceTracks, tracks: list[int]) -> FrameArray:
    """The thumbnail of the longest track that has one; black if none was kept."""
    lengths = {track: int((face_tracks.track == track).sum()) for track in tracks}
    own = [index for index, track in enumerate(face_tracks.thumbnail_track.tolist()) if track in lengths]
    if not own:
        return np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    return np.asarray(face_tracks.thumbnails[max(own, key=lambda i: lengths[int(face_tracks.thumbnail_track[i])])])


def _box(box: FloatArray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(side) for side in box)
    return x0, y0, x1, y1
