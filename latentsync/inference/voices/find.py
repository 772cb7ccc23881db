"""Finds when the people of a video speak, from its frames and its sound; reads the frames once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from latentsync.face.align import FrameArray
from latentsync.inference.faces.people import Person
from latentsync.inference.faces.plan import FacePolicy, plan_faces
from latentsync.inference.faces.tracks import FaceTracks
from latentsync.inference.voices.decision import BoolArray, sound_of_frames, spans_of, who_speaks
from latentsync.inference.voices.network import VoiceNetwork
from latentsync.inference.voices.scores import frames_at_model_rate, voice_scores


@dataclass(frozen=True)
class Voices:
    """By the number of each person: the spans in seconds in which they speak, and in which frames of the source they are seen."""

    spans: dict[int, list[tuple[float, float]]]
    seen: dict[int, BoolArray]  # [n] each

    def together(self, first: int, second: int) -> bool:
        """Whether two people are seen in the same frame."""
        return bool((self.seen[first] & self.seen[second]).any())


def find_voices(
    network: VoiceNetwork,
    face_tracks: FaceTracks,
    people: Sequence[Person],
    frames: Iterator[FrameArray],
    times: Sequence[Fraction],
    waveform: NDArray[np.float32],
    resolution: int,
    on_frame: Callable[[int], None] = lambda done: None,
) -> Voices:
    """When each of `people` speaks.

    `frames` and `times` are those of the source from its beginning, with the end, as many as `face_tracks` has; `waveform` is the
    video's sound, float32 at 16 kHz, from the first frame on. Faces are aligned at `resolution` px.
    """
    plans = [plan_faces(face_tracks, one.tracks, FacePolicy(), times, resolution) for one in people]
    order = frames_at_model_rate(times)
    audible, speech = sound_of_frames(waveform, len(order))
    scores = (
        voice_scores(network, frames, plans, order, waveform, resolution, on_frame)
        if plans
        else np.zeros((0, len(order)))
    )
    spans: dict[int, list[tuple[float, float]]] = {person.number: [] for person in people}
    for span in spans_of(who_speaks(np.asarray(scores, np.float32), audible), audible, speech):
        spans[people[span.person].number].append((span.start_sec, span.stop_sec))
    return Voices(spans, {person.number: plan.track >= 0 for person, plan in zip(people, plans, strict=True)})
