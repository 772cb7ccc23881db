"""Drawn conversations: who speaks, who is seen, and the same people again by the same seed."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="avatars need the optional espeak-ng")

from latentsync.avatar.conversation import (
    HEIGHT,
    KINDS,
    TILE,
    Conversation,
    ConversationKind,
    Drawn,
    make_conversation,
    people_of,
    random_conversation,
    seen_share,
)
from latentsync.media.probe import probe
from latentsync.timebase import MODEL_FPS, SAMPLE_RATE_HZ
from scripts.make_avatars import main


@pytest.fixture(scope="module", params=KINDS)
def talk(request: pytest.FixtureRequest) -> Conversation:
    return random_conversation(request.param, 1_000_000, people_of(request.param, 0), held_out=True)


def test_one_speaks_at_a_time_and_the_lips_of_the_others_are_closed(talk: Conversation) -> None:
    speakers = [talk.speaker(frame) for frame in range(len(talk))]
    assert {0, 1} <= set(speakers) and None in speakers
    ends = [turn.end_sec for turn in talk.turns[:-1]]
    assert all(end < turn.start_sec for end, turn in zip(ends, talk.turns[1:], strict=True))
    for number, person in enumerate(talk.people):
        speaking = np.array([speaker == number for speaker in speakers])
        far = ~np.convolve(speaking, np.ones(15), "same").astype(bool)
        assert person.mouth.aperture[speaking].mean() > 0.15 and person.mouth.aperture[far].max() < 0.02
    assert len(talk.waveform) == len(talk) * SAMPLE_RATE_HZ // MODEL_FPS and np.abs(talk.waveform).max() <= 1


def test_who_is_in_the_picture(talk: Conversation) -> None:
    seen = {person for frame in range(len(talk)) for person in talk.shown(frame)}
    assert seen == ({0, 1} if talk.kind == "off_screen" else set(range(len(talk.people))))
    if talk.kind == "single_shots":
        assert {len(talk.shown(frame)) for frame in range(len(talk))} == {1}
        assert all(talk.speaker(f) in (None, talk.shown(f)[0]) for f in range(len(talk)))
    left_first = [talk.centre_px(0, frame) < talk.centre_px(1, frame) for frame in (0, len(talk) - 1)]
    assert left_first == (
        [True, False] if talk.kind == "crossing" else [True, True] if len(talk.shown(0)) > 1 else [False] * 2
    )


def test_the_seed_decides(talk: Conversation) -> None:
    again = random_conversation(talk.kind, talk.seed, len(talk.people), held_out=True)
    other = random_conversation(talk.kind, talk.seed + 1, len(talk.people), held_out=True)
    assert again.turns == talk.turns and (again.waveform == talk.waveform).all()
    assert [turn.sentence for turn in other.turns] != [turn.sentence for turn in talk.turns]


def test_who_is_covered_is_not_seen() -> None:
    alpha = np.zeros((HEIGHT, TILE))
    alpha[:, : TILE // 2] = 1
    front = [Drawn(0, np.zeros((HEIGHT, TILE, 3)), alpha, left=100)]
    points = np.array([[110, 10], [100 + TILE - 1, 10], [50, 10], [-5, 10]], float)
    assert seen_share(points, front, 600) == 0.5
    assert seen_share(points, [], 600) == 0.75


@pytest.mark.parametrize(
    ("kind", "variant", "count"),
    [("side_by_side", 0, 2), ("side_by_side", 2, 3), ("crossing", 2, 2), ("off_screen", 0, 3)],
)
def test_some_have_three_people(kind: ConversationKind, variant: int, count: int) -> None:
    assert people_of(kind, variant) == count


@pytest.mark.parametrize("option", ["--together", "--frames=3", "--occluder=hand"])
def test_the_command_refuses_what_conversations_have_not(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--conversation", "--out", str(tmp_path), option]) == 2
    assert "leave out --" in capsys.readouterr().err
    assert main(["--out", str(tmp_path)]) == 2 and "--count" in capsys.readouterr().err


@pytest.mark.slow
def test_a_conversation_is_a_film_with_its_truth(tmp_path: Path) -> None:
    video = make_conversation("crossing", 1_000_000, 2, tmp_path, held_out=True)
    truth = json.loads(video.with_suffix(".json").read_text())
    visible = np.array(truth["visible"])
    assert visible[0].min() > 0.9 and visible[1].min() < 0.05 and visible[1].max() == 1
    info = probe(video)
    assert info.has_audio and info.square_size[1] == HEIGHT
    before = video.read_bytes()
    assert (
        make_conversation("crossing", 1_000_000, 2, tmp_path, held_out=True) == video and video.read_bytes() == before
    )
