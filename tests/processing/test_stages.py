"""The data-processing stages: clips with planted defects are dropped for the right reason, good clips are kept, cuts and
offsets are exact."""

import hashlib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="avatars need the optional espeak-ng")

from latentsync.face.detection.detector import DEFAULT_DETECTOR, Face, make_detector
from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.sound.read import mono_pieces, mono_span
from latentsync.media.sound.write import write_flac
from latentsync.metrics.pictures.sharpness import blur_px, noise_levels
from latentsync.metrics.sync.offset import delayed
from latentsync.processing.clip import Clip, Kept, source_clip
from latentsync.processing.config import StageSettings
from latentsync.processing.plan import check_installed, make_rules, make_step
from latentsync.processing.stages.followed_face import FaceMeter, SeenFrame, bridged
from latentsync.processing.stages.order import STAGES, STEPS
from latentsync.processing.stages.readable import ReadableStage
from latentsync.processing.stages.resampled import ResampledStage
from latentsync.processing.stages.segmented import split_evenly
from latentsync.processing.stages.shot import ShotStage
from latentsync.processing.stages.span import clip_frames, clip_sound
from latentsync.weights import DEFAULT_ALIGNMENT, Alignment
from tests.support.corpus import SMALL_SETTINGS, Corpus, small_corpus
from tests.support.films import FIRST_SEED, after, first, store, talk
from tests.support.stage_runs import Ending, follow, process, span_of


def tree_hash(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return small_corpus()


@pytest.fixture(scope="module")
def videos(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.build(folder)
    return folder


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ending], dict[str, str]]:
    """The output folder, all endings, and the hashes of the input before the run."""
    before = tree_hash(videos)
    output = tmp_path_factory.mktemp("output")
    return output, process(videos, output, SMALL_SETTINGS), before


@pytest.mark.slow
def test_every_defect_is_dropped_for_its_reason_and_every_good_clip_is_kept(corpus: Corpus, run) -> None:
    _, endings, _ = run
    found = {file.relative: [span_of(e) for e in endings if e.clip.relative == file.relative] for file in corpus.files}
    wanted = {
        file.relative: [(e.start_frame, e.stop_frame, e.stage, e.reason) for e in file.expected]
        for file in corpus.files
    }
    assert found == wanted


@pytest.mark.slow
def test_offsets_are_found_and_removed(corpus: Corpus, run) -> None:
    _, endings, _ = run
    checked = 0
    for ending in endings:
        planted = {e.start_frame: e for e in corpus.expected(ending.clip.relative)}[ending.clip.start_frame]
        if planted.offset_frames is not None:
            assert abs(ending.clip.scores["offset_frames"] - planted.offset_frames) <= 1, ending.clip.relative
            checked += 1
        if not ending.reason:
            assert abs(ending.clip.scores["offset_left_frames"]) <= 1
    assert checked >= 7


@pytest.mark.slow
def test_the_input_is_unchanged_and_outputs_are_complete(videos: Path, run) -> None:
    output, endings, before = run
    assert tree_hash(videos) == before
    finished = [ending for ending in endings if not ending.reason]
    assert {path.suffix for path in output.rglob("*") if path.is_file()} == {".mp4"}
    assert len({ending.clip.path for ending in finished}) == len(finished)
    for ending in finished:
        info = probe(ending.clip.path)
        assert (info.width, info.height, info.fps, info.audio_rate_hz, info.channels) == (256, 256, 25, 16_000, 1)
        assert info.frame_count == ending.clip.frame_count
        assert sum(map(len, mono_pieces(ending.clip.path))) == 640 * info.frame_count


@pytest.mark.slow
def test_reasons_follow_from_the_scores_alone(run) -> None:
    rules = make_rules(SMALL_SETTINGS)
    for ending in run[1]:
        verdicts = {name: rule.decide(ending.clip.scores) for name, rule in rules.items()}
        if isinstance(ending.outcome, Kept):
            assert not any(verdicts.values())
        elif ending.clip.scores:
            assert verdicts[ending.stage] == ending.outcome.reason


@pytest.mark.slow
def test_single_stages_give_the_bytes_of_fused_ones(videos: Path, run, tmp_path: Path) -> None:
    """And a second run gives the bytes of the first."""
    output, endings, _ = run
    before = [e for e in endings if e.clip.relative == "15 fps.mp4"]
    folders = {stage.name: tmp_path / stage.name if stage.writes == "always" else None for stage in STAGES}
    steps = [make_step((stage,), SMALL_SETTINGS) for stage in STAGES]
    again = follow(source_clip(videos / "15 fps.mp4", "15 fps.mp4", "15 fps.mp4"), steps, folders)
    assert [(e.stage, e.clip.clip_id, e.clip.scores) for e in again] == [
        (e.stage, e.clip.clip_id, e.clip.scores) for e in before
    ]
    written = tree_hash(tmp_path)
    assert len(written) == 3 and written.items() <= tree_hash(output).items()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures at 25 and 50 fps with cuts at 1, 41, 81 and 96, and at 15 fps with cuts at 25 and 50."""
    folder = tmp_path_factory.mktemp("scenes")
    people = [talk(FIRST_SEED + index, 40, 128) for index in range(3)]
    film = after([first(people[0], 1), people[1], people[2], first(people[0], 15), first(people[1], 2)])
    store(film, folder / "25.mp4")
    store(film, folder / "50.mp4", 50)
    store(after([first(people[1], 25), first(people[2], 25), people[0]]), folder / "15.mp4", 15)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("fps", "cuts"), [(25, [1, 41, 81, 96]), (50, [1, 41, 81, 96]), (15, [25, 50])])
def test_cuts_are_exact_to_the_frame(scenes: Path, fps: int, cuts: list[int]) -> None:
    """Also in the first and last frames, and where a slower video repeats its frames."""
    outcomes = make_step((ShotStage,), SMALL_SETTINGS)(readable(scenes / f"{fps}.mp4"), {})
    assert [outcome.clip.start_frame for _, outcome in outcomes] == [0, *cuts]


@pytest.mark.slow
def test_writing_files_at_every_stage_does_not_change_the_spans(scenes: Path, tmp_path: Path) -> None:
    settings = replace(SMALL_SETTINGS, min_segment_sec=0.5, max_segment_sec=1.0)
    folders = {stage.name: tmp_path / stage.name for stage in STAGES}
    clip = source_clip(scenes / "25.mp4", "", "25.mp4")
    kept, virtual = (follow(clip, [make_step(STEPS[0], settings)], each) for each in (folders, {}))
    alone = follow(clip, [make_step((stage,), settings) for stage in STEPS[0]], {"segmented": tmp_path / "alone"})
    assert [span_of(e) for e in kept] == [span_of(e) for e in virtual] == [span_of(e) for e in alone]
    assert [len(list((tmp_path / name).iterdir())) for name in ("resampled", "shot", "segmented", "alone")] == [
        1,
        5,
        5,
        5,
    ]
    for one, other in zip(kept, virtual, strict=True):
        if not one.reason:
            assert probe(one.clip.path).frame_count == one.clip.frame_count
            shown, meant = next(clip_frames(one.clip)), next(clip_frames(other.clip))
            assert np.abs(shown.astype(int) - meant).mean() < 3


def readable(path: Path) -> Clip:
    (outcome,) = (
        outcome for _, outcome in make_step((ReadableStage,), SMALL_SETTINGS)(source_clip(path, "", path.name), {})
    )
    assert isinstance(outcome, Kept), outcome
    return outcome.clip


@pytest.mark.slow
def test_a_span_has_the_frames_and_sound_of_its_part_of_the_file(videos: Path) -> None:
    whole = readable(videos / "clean.mp4")
    part = whole.cut(20, 45).cut(5, 15)
    frames, wanted = list(clip_frames(part)), list(clip_frames(whole))[25:35]
    assert all(np.array_equal(a, b) for a, b in zip(frames, wanted, strict=True))
    assert np.array_equal(clip_sound(part), clip_sound(whole)[25 * 640 : 35 * 640])
    assert part.start_sec == 1.0 and part.duration_sec == 0.4


@pytest.fixture(scope="module")
def seen(videos: Path) -> list[SeenFrame]:
    """The 50 frames of a person, each with the face."""
    frames = list(FaceMeter().follow(readable(videos / "clean.mp4"), make_detector()))
    assert len(frames) == 50 and all(each.face and not each.is_bridged for each in frames)
    return frames


def without(seen: list[SeenFrame], frames: set[int], shade: float = 1.0) -> list[SeenFrame]:
    """The frames with no face in some, and those darker."""
    dark = [(each.frame * shade).astype(np.uint8) for each in seen]
    return [SeenFrame(dark[n], None) if n in frames else each for n, each in enumerate(seen)]


@pytest.mark.slow
def test_a_face_that_is_missed_briefly_is_bridged(seen: list[SeenFrame]) -> None:
    missed = {0, 1, *range(20, 25), 49}
    found = list(bridged(without(seen, missed)))
    assert {n for n, each in enumerate(found) if each.is_bridged} == missed
    for now, truth in zip(found, seen, strict=True):
        assert now.face is not None and truth.face is not None
        assert np.abs(now.face.points - truth.face.points).max() < 0.03 * truth.face.face_px
        assert np.array_equal(now.frame, truth.frame)


@pytest.mark.slow
@pytest.mark.parametrize(("missed", "shade"), [({20}, 0.1), (set(range(20, 26)), 1.0), (set(range(50)), 1.0)])
def test_uncertain_or_long_gaps_are_not_bridged(seen: list[SeenFrame], missed: set[int], shade: float) -> None:
    """A frame that is dark, and a face that is missed for longer than can be bridged."""
    found = list(bridged(without(seen, missed, shade)))
    assert len(found) == 50 and {n for n, each in enumerate(found) if each.face is None} == missed


class LateDetector:
    """Finds no face until a certain frame, and the face in every frame from then on."""

    alignment: Alignment = DEFAULT_ALIGNMENT

    def __init__(self, finds_at: SeenFrame) -> None:
        self.finds_at = finds_at
        self.has_found = False

    def reset(self) -> None:
        self.has_found = False

    def faces(self, frame: np.ndarray) -> list[Face]:
        self.has_found = self.has_found or np.array_equal(frame, self.finds_at.frame)
        return [self.finds_at.face] if self.has_found and self.finds_at.face else []

    def points(self, frame: np.ndarray) -> Face | None:
        return next(iter(self.faces(frame)), None)


@pytest.mark.slow
@pytest.mark.parametrize(("finds_at", "faceless"), [(0, 0), (20, 0), (40, 40)])
def test_a_face_found_late_is_followed_back_to_the_first_frame(
    videos: Path, seen: list[SeenFrame], finds_at: int, faceless: int
) -> None:
    meter = FaceMeter()
    assert len(list(meter.follow(readable(videos / "clean.mp4"), LateDetector(seen[finds_at])))) == 50
    assert meter.scores["faceless_frames"] == faceless


@pytest.mark.parametrize("frames", [125, 250, 251, 375, 501, 749, 1000, 90_001])
def test_segments_are_even_and_within_their_limits(frames: int) -> None:
    spans = split_evenly(frames, 250)
    assert spans[0][0] == 0 and spans[-1][1] == frames
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))
    lengths = [stop - start for start, stop in spans]
    assert min(lengths) >= 125 and max(lengths) <= 250 and max(lengths) - min(lengths) <= 1


def test_sound_moves_by_samples() -> None:
    sound = np.arange(1, 6401, dtype=np.int16)
    later, earlier = delayed(sound, 3), delayed(sound, -3)
    assert not later[:1920].any() and np.array_equal(later[1920:], sound[:-1920])
    assert not earlier[-1920:].any() and np.array_equal(earlier[:-1920], sound[1920:])


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_a_span_of_sound_equals_that_part_of_the_whole(
    tmp_path: Path, rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when decoding starts shortly before it."""
    rng = np.random.default_rng(rate_hz)
    noise = np.convolve(rng.normal(0, 4000, 6 * rate_hz), np.ones(9) / 3, "same").astype(np.int16)
    path = tmp_path / "sound.flac"
    write_flac(path, [noise], rate_hz)
    whole = np.concatenate(list(mono_pieces(path)))
    monkeypatch.setattr("latentsync.media.sound.read.SEEK_FROM_SEC", 1.0)
    for start in (0.0, 0.52, 4.0, 5.8):
        found = mono_span(path, start, 8000)
        wanted = np.pad(whole, (0, 8000))[int(start * 16_000) :][:8000]
        assert np.abs(found.astype(int) - wanted).max() <= 2


def test_a_score_at_the_threshold_is_kept() -> None:
    rules = make_rules(StageSettings())
    face = {"face_share": 1.0, "face_px": 256.0, "other_faces_share": 0.0, "persons": 1}
    assert rules["high_resolution"].decide(face) is None
    assert rules["high_resolution"].decide({**face, "face_px": 255.9}) == "small_face"
    assert rules["high_resolution"].decide({**face, "persons": 2}) == "several_faces"
    sync = {"sync_confidence": 3.0, "offset_frames": -6}
    assert rules["av_synced"].decide(sync) is None
    assert rules["av_synced"].decide({**sync, "offset_frames": 7}) == "large_offset"
    assert rules["av_synced"].decide({**sync, "sync_confidence": 2.99}) == "low_sync_confidence"
    assert rules["high_visual_quality"].decide({"quality": 40.0}) is None
    assert rules["high_visual_quality"].decide({"quality": 39.9}) == "low_quality"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            StageSettings(detector=DEFAULT_DETECTOR),
            ["syncnet_v2.model", "sfd_face.pth", "download_checkpoints", "--sync_model demo"],
        ),
        (
            StageSettings(detector=DEFAULT_DETECTOR, sync_model="demo"),
            ["koniq_pretrained.pkl", "--quality_metric sharpness"],
        ),
        (StageSettings(), ["s3fd", "2DFAN4", "download_checkpoints training`", "choose another --detector"]),
        (StageSettings(min_segment_sec=6), ["twice"]),
        (StageSettings(sync_model="best"), ["syncnet_v2, demo"]),
    ],
)
def test_missing_weights_and_wrong_settings_are_refused_before_any_work(
    settings: StageSettings, words: list[str], tmp_path: Path
) -> None:
    settings.weights_dir = tmp_path
    with pytest.raises(ValueError) as caught:
        check_installed(settings)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.slow
def test_sharpness_distinguishes_blur_from_noise(videos: Path) -> None:
    import cv2

    frame = next(clip_frames(readable(videos / "clean.mp4")))
    soft = cv2.GaussianBlur(frame, (0, 0), 5)
    grainy = np.clip(frame + np.random.default_rng(0).normal(0, 25, frame.shape), 0, 255).astype(np.uint8)
    assert blur_px(soft) > 2 * blur_px(frame) and noise_levels(soft) < noise_levels(frame)
    assert noise_levels(grainy) > 10 and blur_px(grainy) < 1.5 * blur_px(frame)


def test_equal_and_long_names_get_distinct_files(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov"):
        (tmp_path / name).write_bytes(b"the same")
    clips = [source_clip(tmp_path / name, name, f"in/{name}") for name in ("a.mp4", "a.mov")]
    assert len({clip.file_name for clip in clips}) == 2
    long = source_clip(tmp_path / "a.mp4", "", f"{'ß' * 120}.mp4")
    assert len(Path(long.file_name).name.encode()) < 255


@pytest.mark.slow
def test_a_full_disk_raises_and_does_not_drop_the_clip(videos: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises((MediaError, OSError)):
        make_step((ResampledStage,), SMALL_SETTINGS)(readable(videos / "clean.mp4"), {"resampled": blocked})
    assert blocked.read_text() == "in the way"


def test_every_reason_and_setting_belongs_to_its_stage(corpus: Corpus) -> None:
    reasons = {stage.name: stage.reasons for stage in STAGES}
    for file in corpus.files:
        assert all(each.reason in reasons[each.stage] for each in file.expected if each.reason)
    owners: dict[str, type] = {}
    for settings in {kind for stage in STAGES for kind in stage.settings_type.__mro__ if is_dataclass(kind)}:
        for name in settings.__dict__.get("__annotations__", {}):
            assert name == "needs_new_run" or owners.setdefault(name, settings) is settings, f"two stages have {name}"
    assert {each.name for each in fields(StageSettings)} == owners.keys()


def test_the_table_of_stages_in_the_docs_is_the_list(corpus: Corpus) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
    rows = [
        f"| `{stage.name}` | {stage.keeps} | {', '.join(f'`{reason}`' for reason in stage.reasons)} |"
        for stage in STAGES
    ]
    assert "\n".join(rows).replace("|  |", "| |") in text
