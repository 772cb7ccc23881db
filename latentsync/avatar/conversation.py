"""Conversations of two or three drawn people in one picture, with exactly known speakers, lips and places of the faces.

`side_by_side`: they sit beside each other and speak in turn; `crossing`: two change places, and the second passes behind the first;
`single_shots`: every turn is a shot of its speaker alone, in a room of its own; `off_screen`: two sit side by side, and one more is
heard who is never seen. Who does not speak has closed lips.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from latentsync.avatar.clip import FRAME_SIZE, NOISE_MARGIN, AvatarClip, HeadMotion, random_motion
from latentsync.avatar.identity import Identity, random_identity
from latentsync.avatar.mouth import mouth_track
from latentsync.avatar.raster import to_srgb
from latentsync.avatar.render import Pose
from latentsync.avatar.room import margin_px, paint_room
from latentsync.avatar.sound.sentences import random_sentence
from latentsync.avatar.sound.speech import Phoneme, Speech, random_voice, speak
from latentsync.files import atomic_write
from latentsync.media.sound.copy import AudioSource
from latentsync.media.sound.write import write_wav
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ, frames_in, samples_of_frames

ConversationKind = Literal["side_by_side", "crossing", "single_shots", "off_screen"]
KINDS: tuple[ConversationKind, ...] = get_args(ConversationKind)
NAMES = ("Anna", "Bert", "Carla")
HEIGHT = FRAME_SIZE  # px
SPACING = 236  # px between neighbours
SHOT_WIDTH = 336  # px of a single shot
CROSSING_WIDTH = 560
TILE = 352  # px, width of the picture of one person, who is drawn into the middle
TURNS = 4
PAUSES_SEC = (0.35, 0.8)  # between two turns
LEAD_SEC = 0.4  # before the first turn and after the last
CROSSING_SEC = 2.6  # of the change of places
BEHIND_SCALE = 0.9  # of the head that passes behind
SPEECH_LEVEL = 0.9  # highest sample


@dataclass(frozen=True)
class Turn:
    """Somebody says a sentence, from the first to the last sound."""

    person: int
    start_sec: float
    end_sec: float
    sentence: str


@dataclass(frozen=True)
class Drawn:
    """One person of a frame: premultiplied linear RGB [h, TILE, 3] and alpha [h, TILE], `left` px from the left edge."""

    person: int
    colour: np.ndarray
    alpha: np.ndarray
    left: int


@dataclass(frozen=True)
class Conversation:
    """A conversation, determined by its kind and seed; `frames()` draws it, `waveform` is its sound, `truth()` its ground truth."""

    kind: ConversationKind
    seed: int
    people: tuple[AvatarClip, ...]  # each as long as the conversation, silent where they do not speak
    turns: tuple[Turn, ...]

    def __len__(self) -> int:
        return len(self.people[0])

    @property
    def seen(self) -> range:
        """The people who are seen; of the kind `off_screen` the last one is only heard."""
        return range(len(self.people) - (self.kind == "off_screen"))

    @property
    def width(self) -> int:
        """px of the frames."""
        widths = {"crossing": CROSSING_WIDTH, "single_shots": SHOT_WIDTH}
        return widths.get(self.kind, len(self.seen) * SPACING)

    @property
    def waveform(self) -> np.ndarray:
        """What all say together: mono float32 at 16 kHz, as long as the frames."""
        return np.sum([person.waveform for person in self.people], axis=0).astype(np.float32)

    @cached_property
    def shot(self) -> np.ndarray:
        """int [n]: of single shots the person who is shown, in other kinds 0. A shot begins in the middle of a pause."""
        shot = np.zeros(len(self), int)
        if self.kind == "single_shots":
            for before, turn in zip((None, *self.turns), self.turns, strict=False):
                cut_sec = 0.0 if before is None else (before.end_sec + turn.start_sec) / 2
                shot[round(cut_sec * MODEL_FPS) :] = turn.person
        return shot

    def shown(self, frame: int) -> Sequence[int]:
        """The people in a frame, the farthest first."""
        if self.kind == "single_shots":
            return (int(self.shot[frame]),)
        return tuple(self.seen)[::-1]

    def centre_px(self, person: int, frame: int) -> float:
        """x of the middle of a person at rest."""
        if self.kind == "single_shots":
            return self.width / 2
        if self.kind != "crossing":
            return (person + 0.5) * SPACING
        middle = self.meeting_sec
        share = np.clip((frame / MODEL_FPS - middle) / CROSSING_SEC + 0.5, 0, 1)
        way = 0.25 + 0.5 * share * share * (3 - 2 * share)
        return self.width * float(way if person == 0 else 1 - way)

    @property
    def meeting_sec(self) -> float:
        """When one passes behind the other: in a pause, or, with odd seeds, in the middle of a turn of the one who is covered."""
        turn, after = self.turns[1:3]
        return (turn.start_sec + turn.end_sec) / 2 if self.seed % 2 else (turn.end_sec + after.start_sec) / 2

    def pose(self, person: int, frame: int) -> tuple[Pose, int]:
        """The position of a head in its tile, and the tile's left edge in px of the frame."""
        clip, centre = self.people[person], self.centre_px(person, frame)
        left = int(np.floor(centre)) - TILE // 2
        own, scale = clip.pose(frame), BEHIND_SCALE if self.kind == "crossing" and person else 1.0
        at = ((centre - left) / TILE, own.centre[1])
        return Pose(own.yaw, own.pitch, own.roll, own.shift, own.px_per_cm * scale, (HEIGHT, TILE), at), left

    def landmarks(self, person: int, frame: int) -> np.ndarray:
        """The 68 usual landmarks of a person in a frame, [68, 2] in px."""
        pose, left = self.pose(person, frame)
        return self.people[person].landmarks(frame, pose) + [left, 0]

    def draw(self, frame: int) -> list[Drawn]:
        """The people of a frame, the farthest first."""
        drawn = []
        for person in self.shown(frame):
            pose, left = self.pose(person, frame)
            clip = self.people[person]
            colour, alpha, _ = clip.renderer.draw(clip.expression(frame), pose)
            drawn.append(Drawn(person, colour, alpha, left))
        return drawn

    def frames_and_people(self) -> Iterator[tuple[np.ndarray, list[Drawn]]]:
        """Draw the conversation: uint8 [h, w, 3] RGB at 25 fps, and the people who were drawn."""
        rng = np.random.default_rng([self.seed, len(KINDS)])
        size, margin = (HEIGHT, self.width), margin_px((HEIGHT, self.width))
        rooms = [paint_room(size, rng)[margin:-margin, margin:-margin] for _ in self.people]
        noise = rng.standard_normal((HEIGHT + NOISE_MARGIN, self.width + NOISE_MARGIN, 3), dtype=np.float32)
        for frame in range(len(self)):
            room = int(self.shot[frame])
            light, drawn = rooms[room].copy(), self.draw(frame)
            for each in drawn:
                paste(light, each)
            identity = self.people[room].identity
            row, column = rng.integers(0, NOISE_MARGIN, 2)
            grain = identity.noise_sigma * noise[row:, column:][:HEIGHT, : self.width]
            yield np.clip(to_srgb(identity.exposure * light) + grain + 0.5, 0, 255).astype(np.uint8), drawn

    def speaker(self, frame: int) -> int | None:
        """Who speaks in a frame; None in pauses."""
        time_sec = (frame + 0.5) / MODEL_FPS
        return next((turn.person for turn in self.turns if turn.start_sec <= time_sec < turn.end_sec), None)

    def truth(self, visible: Sequence[Sequence[float]]) -> dict[str, Any]:
        """The ground truth as JSON values; `visible` [p][n]: how far each one's lips can be seen, from 0 to 1."""
        count = range(len(self))
        return {
            "kind": self.kind,
            "seed": self.seed,
            "fps": MODEL_FPS,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "frames": len(self),
            "people": [{"name": NAMES[n], "off_screen": n not in self.seen} for n in range(len(self.people))],
            "turns": [vars(turn) for turn in self.turns],
            "speaker": [self.speaker(frame) for frame in count],
            "visible": [[round(share, 3) for share in shares] for shares in visible],
            "landmarks": [
                [np.round(self.landmarks(n, frame), 2).tolist() if n in self.shown(frame) else None for frame in count]
                for n in range(len(self.people))
            ],
            "aperture": [np.round(person.mouth.aperture.astype(float), 5).tolist() for person in self.people],
        }


def paste(light: np.ndarray, each: Drawn) -> None:
    """Put a person in front of a picture in linear light [h, w, 3], in place."""
    inside, own = overlap(each.left, light.shape[1])
    alpha = each.alpha[:, own, None]
    light[:, inside] = each.colour[:, own] + (1 - alpha) * light[:, inside]


def overlap(left: int, width: int) -> tuple[slice, slice]:
    """Columns of a frame that a tile covers, and these columns of the tile."""
    first, last = max(0, left), max(0, min(width, left + TILE))
    return slice(first, last), slice(first - left, last - left)


def seen_share(points: np.ndarray, before: Sequence[Drawn], width: int) -> float:
    """Share of points [k, 2] in px of the frame that lie in the picture and behind nobody of `before`."""
    free = (points >= 0).all(axis=1) & (points < [width, HEIGHT]).all(axis=1)
    x, y = np.clip(points, 0, [width - 1, HEIGHT - 1]).astype(int).T
    shares = free.astype(float)
    for each in before:
        column = x - each.left
        inside = (column >= 0) & (column < TILE)
        shares[inside] *= 1 - each.alpha[y[inside], column[inside]]
    return float(shares.mean())


def people_of(kind: ConversationKind, variant: int) -> int:
    """How many people the conversations of a kind have, those off screen too: every third one has three if it can."""
    if kind == "crossing":
        return 2
    return 3 if kind == "off_screen" or variant % 3 == 2 else 2


def random_conversation(kind: ConversationKind, seed: int, people: int, held_out: bool) -> Conversation:
    """The conversation of a seed among two or three `people`; with `held_out` of sentences that training does not use."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    voices, identities = [random_voice(rng) for _ in range(people)], [random_identity(rng) for _ in range(people)]
    turns, said, at = [], [list[tuple[int, Speech]]() for _ in range(people)], frames_in(LEAD_SEC)
    for number in range(max(TURNS, people + 1)):
        person, sentence = number % people, random_sentence(rng, held_out)
        speech = speak(sentence, voices[person])
        sounds = [phoneme for phoneme in speech.phonemes if phoneme.symbol != "_"]
        start_sec = at / MODEL_FPS
        turns.append(Turn(person, start_sec + sounds[0].start_sec, start_sec + sounds[-1].end_sec, sentence))
        said[person].append((at, speech))
        at += frames_in(speech.duration_sec + rng.uniform(*PAUSES_SEC))
    frames = at + frames_in(LEAD_SEC)
    clips = tuple(_silent_but(said[n], frames, identities[n], random_motion(frames, rng), seed) for n in range(people))
    return Conversation(kind, seed, clips, tuple(turns))


def _silent_but(
    said: Sequence[tuple[int, Speech]], frames: int, identity: Identity, motion: HeadMotion, seed: int
) -> AvatarClip:
    """A person who says something from some frames on, and is silent before and after."""
    waveform, phonemes = np.zeros(samples_of_frames(frames), np.float32), []
    for at, speech in said:
        first = samples_of_frames(at)
        loudest = max(1e-6, float(np.abs(speech.waveform).max()))
        waveform[first : first + len(speech.waveform)] = SPEECH_LEVEL / loudest * speech.waveform
        start_sec = at / MODEL_FPS
        phonemes += [Phoneme(p.symbol, p.start_sec + start_sec, p.end_sec + start_sec) for p in speech.phonemes]
    speech = Speech(waveform, phonemes)
    return AvatarClip(seed, "", None, identity, speech, mouth_track(phonemes, frames), motion)


def make_conversation(kind: ConversationKind, seed: int, people: int, folder: Path, held_out: bool) -> Path:
    """Write a conversation as .mp4 (H.264, 25 fps, 16 kHz audio) and its truth as .json; returns the video's path.

    The truth is written last, so a conversation of which it exists is complete; it is not made again.
    """
    video = folder / f"{kind}_{seed:07d}.mp4"
    truth, sound = video.with_suffix(".json"), video.with_suffix(".wav")
    if truth.exists() and video.exists():
        return video
    talk = random_conversation(kind, seed, people, held_out)
    visible: list[list[float]] = [[] for _ in talk.people]
    write_wav(sound, talk.waveform)
    with VideoWriter(video, VideoFormat.constant(talk.width, HEIGHT, MODEL_FPS), AudioSource(sound)) as writer:
        for frame, (picture, drawn) in enumerate(talk.frames_and_people()):
            writer.write(picture)
            order = [each.person for each in drawn]
            for person, shares in enumerate(visible):
                shares.append(
                    seen_share(talk.landmarks(person, frame)[48:], drawn[order.index(person) + 1 :], talk.width)
                    if person in order
                    else 0.0
                )
    sound.unlink()
    with atomic_write(truth) as partial:
        partial.write_text(json.dumps(talk.truth(visible)), encoding="utf-8")
    return video
