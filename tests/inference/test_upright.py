"""Videos that lie on their side or upside down without a tag: the report says so, and the mesh detector finds people upright.

And the other warning about what a video shows: a mouth that hardly moves.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from latentsync.avatar.clip import FRAME_SIZE, HELD_OUT_FIRST_SEED, random_clip
from latentsync.face.align import align_matrix, transform_points
from latentsync.face.detection.detector import detector_problems, make_detector
from latentsync.inference.faces.plan import FacePlan
from latentsync.inference.jobs.job import check_job
from latentsync.inference.jobs.report import hardly_moves, warnings_of
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.preflight import preflight
from latentsync.media.video.write import VideoFormat, VideoWriter
from tests.support.tiny import make_audio, tiny_models
from tests.support.torture import Place, draw_head, room

POINTS = np.array([[100, 100], [150, 100], [125, 140]], np.float32)


def plan_of(turn_deg: float) -> FacePlan:
    """Ten edited frames with a face turned clockwise, and one without a face."""
    turn = np.radians(turn_deg)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = np.repeat(((POINTS - 125) @ linear.T + 125)[None], 11, axis=0)
    points[10] = np.nan
    box = np.repeat(np.array([[0.0, 0, 200, 200]]), 11, axis=0)
    opening = np.full(11, np.nan)
    facts: Any = SimpleNamespace(segment=np.array([0] * 10 + [-1]), box=box, points=points, opening=opening)
    return cast(FacePlan, facts)


@pytest.mark.parametrize(
    ("turn_deg", "words"),
    [(0, None), (40, None), (-50, None), (90, "heads point to the right"), (-88, "to the left"), (180, "upside down")],
)
def test_the_report_says_how_a_video_lies(turn_deg: float, words: str | None) -> None:
    warnings = list(warnings_of(plan_of(turn_deg), 200))
    assert (len(warnings) == 0) if words is None else (len(warnings) == 1 and words in warnings[0])


def test_a_mouth_that_hardly_moves_is_noticed() -> None:
    opening = 0.03 + 0.008 * np.sin(np.arange(50))
    assert hardly_moves(opening) and not hardly_moves(opening[:20])  # too few to know
    opening[20:24] = 0.15  # it says one syllable
    assert not hardly_moves(opening)
    assert not hardly_moves(np.full(50, np.nan))


NEEDS_MESH = pytest.mark.skipif(
    any(problem for _, problem in detector_problems("mesh")), reason="the set `faces` is not downloaded"
)


@NEEDS_MESH
@pytest.mark.slow
@pytest.mark.parametrize("speaks", [True, False])
def test_a_drawn_mouth_hardly_moves_only_if_it_is_closed(tmp_path: Path, speaks: bool) -> None:
    clip = random_clip(HELD_OUT_FIRST_SEED)
    if not speaks:
        clip = replace(clip, mouth=replace(clip.mouth, aperture=np.zeros_like(clip.mouth.aperture)))
    video = tmp_path / "v.mp4"
    with VideoWriter(video, VideoFormat.constant(FRAME_SIZE, FRAME_SIZE, 25)) as writer:
        for frame in islice(clip.frames(), 50):
            writer.write(frame)
    job = check_job(video, make_audio(tmp_path / "a.wav", 2), tmp_path / "o.mp4")
    report = preflight(LipsyncPipeline(tiny_models(), make_detector("mesh")), job)
    assert any("hardly moves" in warning for warning in report.warnings) != speaks


@NEEDS_MESH
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_person_on_their_side_is_aligned_upright(quarters: int) -> None:
    picture = room(40).copy()
    draw_head(picture, 3, Place(320, 190, 0.8), 0)
    frame = np.clip(picture, 0, 255).astype(np.uint8)
    detector = make_detector("mesh")
    upright = detector.points(frame)
    detector.reset()
    turned = detector.points(np.ascontiguousarray(np.rot90(frame, quarters)))
    assert upright is not None and turned is not None
    for found in (upright, turned):
        assert found.landmarks is not None
        aligned = transform_points(align_matrix(found.points, 256), found.landmarks)
        assert aligned[8, 1] > aligned[51, 1] > aligned[27, 1]  # chin below lips below nose
