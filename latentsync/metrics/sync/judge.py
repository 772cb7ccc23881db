"""Sync scores of a video file by SyncNet v2 (the published LSE-C and LSE-D) or by a StableSyncNet.

Both networks embed lips and audio in one space, and the same formulas apply. Their scores have different scales.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.audio.mfcc import INT16_SCALE
from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detection.detector import FaceDetector
from latentsync.files import array_hash, file_hash, network_hash
from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.media.video.read import frames_at, frames_between
from latentsync.metrics.cache import FeatureCache, Features
from latentsync.metrics.statistics import NO_AUDIO, NO_FACE, TOO_SHORT, UnscorableError
from latentsync.metrics.sync.face_tracks import (
    PUBLISHED_RULES,
    FaceBoxes,
    FaceBoxTrack,
    TrackRules,
    crop_track,
    find_tracks,
)
from latentsync.metrics.sync.offset import (
    MAX_SHIFT,
    SyncOffset,
    combine_tracks,
    embed_track,
    find_sync_offset,
    shift_distances,
)
from latentsync.metrics.sync.stable import embed_lips, embed_sound
from latentsync.models.syncnet import StableSyncNet
from latentsync.models.syncnet_v2 import SyncNetV2
from latentsync.timebase import MODEL_FPS, samples_of_frames
from latentsync.weights import DEFAULT_ALIGNMENT

VERSION = "1"  # of the embeddings: cached ones of another version are computed again
Pair = tuple[torch.Tensor, torch.Tensor]  # lips and sound, [n, d] each


@dataclass(frozen=True)
class SyncScore:
    """Sync of the lips of a video with its audio."""

    offset_frames: int  # the best offset; > 0: the audio is early (see `offset.py`)
    confidence: float  # LSE-C: median distance over all offsets minus that at the best offset
    distance: float  # LSE-D: distance at the best offset
    confidence_as_heard: float  # the same two at offset 0: the sync that a viewer perceives
    distance_as_heard: float
    tracks: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class SyncJudge(Protocol):
    """A sync network with its preprocessing."""

    name: str
    fingerprint: str

    def pairs(self, video: Path, waveform: NDArray[np.floating]) -> Iterator[Pair]:
        """Embeddings of each face track of a video and of the audio `waveform`, float [samples] at 16 kHz."""


def sync_score(judge: SyncJudge, video: Path, cache: FeatureCache, published: bool = False) -> SyncScore:
    """Score a video with its own audio.

    Raises:
        UnscorableError: it has no audio or no face track, or is too short.
        MediaError: it cannot be read.
    """
    return score_pairs(embeddings(judge, video, own_sound(video), cache), published)


def own_sound(video: Path) -> NDArray[np.floating]:
    """The audio of a video, float32 [n] at 16 kHz; UnscorableError if it has none."""
    if not probe(video).has_audio:
        raise UnscorableError(NO_AUDIO, f"{video} has no audio to compare the lips with.")
    return read_audio(video)


def embeddings(judge: SyncJudge, video: Path, waveform: NDArray[np.floating], cache: FeatureCache) -> list[Pair]:
    """The embeddings by `judge`, from the cache if they are there; raises as `sync_score`."""
    key = ("sync", VERSION, file_hash(video), array_hash(waveform), judge.name, judge.fingerprint)

    def make() -> Features:
        pairs = list(judge.pairs(video, waveform))
        named = {f"{kind}{i}": value for i, pair in enumerate(pairs) for kind, value in zip("ls", pair, strict=True)}
        return {name: value.numpy() for name, value in named.items()}

    stored = cache.get(key, make)
    pairs = [(torch.from_numpy(stored[f"l{i}"]), torch.from_numpy(stored[f"s{i}"])) for i in range(len(stored) // 2)]
    if not pairs:
        raise UnscorableError(NO_FACE, f"{video} has no face track that is long and large enough.")
    return pairs


def score_pairs(pairs: Sequence[Pair], published: bool = False) -> SyncScore:
    """Score of a video from the embeddings of its tracks: the median over tracks, or if `published` the mean."""
    distances = [shift_distances(lips, sound, MAX_SHIFT, published) for lips, sound in pairs]
    tracks = [find_sync_offset(each) for each in distances]
    at_zero = [at_offset_zero(each) for each in tracks]
    offset, confidence = combine_tracks(tracks, published)
    middle = np.mean if published else median
    return SyncScore(
        offset_frames=offset,
        confidence=confidence,
        distance=float(middle([t.min_distance for t in tracks])),
        confidence_as_heard=float(middle([t.confidence for t in at_zero])),
        distance_as_heard=float(middle([t.min_distance for t in at_zero])),
        tracks=len(tracks),
    )


def at_offset_zero(track: SyncOffset) -> SyncOffset:
    """The score from the same distances at offset 0 instead of the best offset."""
    distance = float(track.mean_distances[len(track.mean_distances) // 2])
    confidence = track.confidence + track.min_distance - distance
    return replace(track, offset_frames=0, confidence=confidence, min_distance=distance)


class ExpertJudge:
    """SyncNet v2 on the face tracks from the boxes of `find_boxes`."""

    def __init__(self, net: SyncNetV2, find_boxes: FaceBoxes, published: bool = False) -> None:
        self.net, self.find_boxes, self.published = net, find_boxes, published
        self.rules = PUBLISHED_RULES if published else TrackRules()
        self.name = f"SyncNet v2, {type(find_boxes).__name__}{', published rules' if published else ''}"
        self.fingerprint = network_hash(net)

    def pairs(self, video: Path, waveform: NDArray[np.floating]) -> Iterator[Pair]:
        """See `SyncJudge`; tracks shorter than a window are left out."""
        frames = (shown.frame for shown in frames_at(video, MODEL_FPS))
        for track in find_tracks(frames, self.find_boxes, self.rules):
            first, last = (samples_of_frames(f) for f in (track.start_frame, track.start_frame + len(track)))
            sound = waveform[first:last] * INT16_SCALE
            lips, audio = embed_track(self.net, self._crops(video, track), len(track), sound, self.published)
            if len(lips):
                yield lips.cpu(), audio.cpu()

    def _crops(self, video: Path, track: FaceBoxTrack) -> Iterator[NDArray[np.uint8]]:
        stop = track.start_frame + len(track)
        shown = frames_between(video, MODEL_FPS, track.start_frame, stop)
        return crop_track((each.frame for each in shown), track)


class StableJudge:
    """A StableSyncNet on the aligned face that `detector` finds: one track per video."""

    def __init__(self, net: StableSyncNet, resolution: int, num_frames: int, detector: FaceDetector | None) -> None:
        """Without a detector the frames of a video must be aligned faces."""
        self.net, self.detector = net, detector
        self.resolution, self.num_frames = resolution, num_frames
        self.name = f"StableSyncNet, {type(detector).__name__ if detector else 'aligned'}"
        if detector and detector.alignment != DEFAULT_ALIGNMENT:
            self.name += f", {detector.alignment}"
        self.fingerprint = network_hash(net)

    def pairs(self, video: Path, waveform: NDArray[np.floating]) -> Iterator[Pair]:
        """See `SyncJudge`.

        Raises:
            UnscorableError: video or audio is shorter than a window, or no window shows a face in all its frames.
        """
        lips = embed_lips(self.net, self.faces(video), self.resolution, self.num_frames)
        sound = embed_sound(self.net, waveform, self.num_frames)
        count = min(len(lips), len(sound))
        if count == 0:
            detail = f"{video} is shorter than a window of the sync network: {self.num_frames} frames with their audio."
            raise UnscorableError(TOO_SHORT, detail)
        if bool(lips[:count].isnan().all()):
            raise UnscorableError(NO_FACE, f"{video} does not show a face in {self.num_frames} consecutive frames.")
        yield lips[:count], sound[:count]

    def faces(self, video: Path) -> Iterator[NDArray[np.uint8] | None]:
        """The aligned face of each frame, uint8 [r, r, 3]; None without a face."""
        frames = (shown.frame for shown in frames_at(video, MODEL_FPS))
        if self.detector is None:
            yield from frames
            return
        smoother = Smoother()
        self.detector.reset()
        for frame in frames:
            found = self.detector.points(frame)
            if found is None:
                smoother.reset()
                yield None
            else:
                resolution = max(128, self.resolution)
                yield warp_face(frame, align_matrix(found.points, resolution, smoother), resolution)
