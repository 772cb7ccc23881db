"""The plan of pass 2: which frames share a window, where output segments begin, and which settings are refused."""

from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentsync.face.masks import generated_part
from latentsync.inference.faces.plan import NOT_EDITED
from latentsync.inference.jobs.folder import JobFolder
from latentsync.inference.jobs.segments import plan_output_segments, segment_of_frames
from latentsync.inference.jobs.timeline import Timeline
from latentsync.inference.memory import MemoryPlan, memory_plan
from latentsync.inference.settings import InferenceSettings, JobOptions, LastWindow
from latentsync.inference.windows.finish import rejection_reason
from latentsync.inference.windows.stream import windows_of
from latentsync.media.container import MediaError
from latentsync.timebase import stride_of


@given(
    st.integers(1, 200),
    st.integers(2, 16),
    st.integers(1, 3),
    st.integers(0, 8),
    st.integers(0, 40),
    st.sampled_from(get_args(LastWindow)),
)
def test_windows_cover_every_frame_and_share_only_the_overlap(
    count: int, num_frames: int, stride: int, shared: int, before: int, last_window: LastWindow
) -> None:
    overlap = min(shared, num_frames // 2)
    windows = windows_of(count, num_frames, stride, overlap, before, last_window)
    kept = [[plan.frames[place] for place in plan.kept] for plan in windows]
    covered = np.bincount([frame for frames in kept for frame in frames], minlength=count)
    assert covered.min() == 1 and covered.max() <= 2
    assert (covered == 2).sum() <= overlap * len(windows)
    for plan, frames in zip(windows, kept, strict=True):
        assert len(plan.frames) <= num_frames and set(np.diff(frames)) <= {stride}
        assert min(plan.frames) >= -before and max(plan.frames) < count


@given(st.integers(1, 40), st.integers(2, 16), st.integers(1, 3), st.integers(0, 60))
def test_the_last_window_is_shifted_back_over_earlier_frames(
    count: int, num_frames: int, stride: int, before: int
) -> None:
    for plan in windows_of(count, num_frames, stride, before=before):
        assert len(plan.frames) == num_frames
        real = plan.frames[: plan.kept.stop]
        assert set(np.diff(real)) <= {stride} and set(plan.frames[plan.kept.stop :]) <= {real[-1]}
        there = len(range(real[-1], -before - 1, -stride))  # frames up to the window's last one
        assert len(real) == min(num_frames, there)


@pytest.mark.parametrize(
    ("fps", "stride"), [(15, 1), (23.976, 1), (25, 1), (29.97, 1), (37, 1), (48, 2), (50, 2), (59.94, 2), (120, 5)]
)
def test_a_window_sees_about_25_frames_a_second(fps: float, stride: int) -> None:
    assert stride_of(fps) == stride


segment_numbers = st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 60)), min_size=1, max_size=8).map(
    lambda runs: np.repeat([segment_of_frame for segment_of_frame, _ in runs], [length for _, length in runs])
)


def timeline_of(order: np.ndarray) -> Timeline:
    """At 25 frames per second, with audio throughout."""
    return Timeline(order, np.arange(len(order) + 1), Fraction(1, 25), len(order))


@given(segment_numbers, st.integers(1, 50), st.integers(1, 20))
def test_output_segments_begin_where_windows_begin(segment_of_frame: np.ndarray, frames: int, fresh: int) -> None:
    count = len(segment_of_frame)
    shown = segment_of_frames(segment_of_frame, timeline_of(np.arange(count)), np.ones(count))
    segments = plan_output_segments([shown], frames, fresh, overlap=0)
    assert [segment.start for segment in segments] == [0, *(segment.stop for segment in segments[:-1])]
    assert segments[-1].stop == len(segment_of_frame)
    for segment in segments:
        assert segment.warm_start == segment.start
        first = segment.start
        while shown[segment.start] != NOT_EDITED and first > 0 and shown[first - 1] == shown[segment.start]:
            first -= 1
        assert (segment.start - first) % fresh == 0
        if first < segment.start:  # the edited segment's last window finds its frames in this segment
            assert (shown[segment.start : segment.start + fresh] == shown[segment.start]).all()
            assert segment.start + fresh <= len(segment_of_frame)
        assert segment.stop - segment.start >= frames or segment is segments[-1]


def test_with_an_overlap_a_segment_warms_up_with_the_window_before_it() -> None:
    segments = plan_output_segments([np.ones(100, np.int64)], 30, fresh=12, overlap=4)
    assert [(segment.start, segment.warm_start) for segment in segments] == [(0, 0), (36, 24), (72, 60)]


def test_a_jump_of_the_source_begins_a_new_segment() -> None:
    segment_of_frame = np.array([5, 5, 5, -1])
    order = np.array([0, 1, 2, 0, 1, 2, 3, 3])
    assert segment_of_frames(segment_of_frame, timeline_of(order), np.ones(8)).tolist() == [1, 1, 1, 2, 2, 2, -1, -1]


def test_where_lips_stay_the_segment_ends() -> None:
    weights = np.array([0.5, 1, 0, 0, 0.5, 1])
    found = segment_of_frames(np.zeros(6, int), timeline_of(np.arange(6)), weights)
    assert found[0] == found[1] != found[4] == found[5] and found[2] == found[3] == NOT_EDITED


def test_unusable_faces_are_rejected() -> None:
    mask = torch.ones(16, 16)
    mask[8:] = 0
    faces = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    part = generated_part(mask)
    assert rejection_reason(faces, mask[part], part) is None
    broken, flat, grey = faces.clone(), faces.clone(), faces.clone()
    broken[1, 0, 3, 3] = torch.nan
    flat[2, :, 8:] = 0.7
    grey[0, :, 8:] = 0.03 * faces[0, :, 8:]
    assert [rejection_reason(face, mask[part], part) for face in (broken, flat, grey)] == [
        "not a number",
        "one colour",
        "mask",
    ]


def test_the_memory_plan_is_halved_until_it_cannot_be() -> None:
    plan: MemoryPlan | None = MemoryPlan(windows=4, vae_frames=2)
    seen = []
    while plan:
        seen.append((plan.windows, plan.vae_frames, plan.offload))
        plan = plan.halved()
    assert seen == [(4, 2, False), (2, 2, False), (1, 2, False), (1, 1, False), (1, 1, True)]
    assert memory_plan("auto", torch.device("cpu"), 512).vae_frames == 2
    with pytest.raises(ValueError, match="memory"):
        memory_plan("much", torch.device("cpu"), 256)  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    for wrong in (
        {"steps": 0},
        {"reference": "other"},
        {"init": "zeros"},
        {"guidance_scale": -1.0},
        {"seed": -2},
        {"overlap": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InferenceSettings().changed(wrong)
    assert InferenceSettings().changed({"steps": None, "seed": 5}) == InferenceSettings(seed=5)
    assert InferenceSettings(seed=-1).seeded().seed >= 0
    for wrong in (
        {"length": "stretch"},
        {"fps": Fraction(0)},
        {"crf": 70},
        {"on_missing_face": "stop"},
        {"colour": "x"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            JobOptions().changed(wrong)


def test_a_job_folder_belongs_to_one_job_and_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "out.mp4.job"
    with JobFolder(folder, {"video": 1}, seed=7) as first:
        first.save_facts(0, [[1, None, True]])
        first.segment_path(0).write_bytes(b"part")
        with pytest.raises(MediaError, match="another run"):
            JobFolder(folder, {"video": 1}, seed=7).__enter__()
    with JobFolder(folder, {"video": 1}, seed=8) as again:
        assert (again.missing_segments(2), again.seed, again.facts(0)) == ([1], 7, [[1, None, True]])
    with pytest.raises(MediaError, match="another video.*--force"):
        JobFolder(folder, {"video": 2}, seed=8).__enter__()
    with JobFolder(folder, {"video": 2}, seed=8, force=True) as anew:
        assert (anew.missing_segments(2), anew.seed) == ([0, 1], 8)
        anew.remove()
    assert not folder.exists()


def test_a_folder_with_other_files_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(MediaError, match="other files"):
        JobFolder(tmp_path, {}, seed=0, force=True).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]
