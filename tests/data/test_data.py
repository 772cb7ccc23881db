"""Training data: the choice of clips, items that depend on their position alone, and caches keyed by content."""

import json
import multiprocessing
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from latentsync.audio.windows import training_windows
from latentsync.data import clips as clips_module
from latentsync.data.aligned import align_clip, aligned_faces
from latentsync.data.clips import ClipIndex, TrainingClip, describe_index, find_clips, index_clips
from latentsync.data.draws import ClipOrder, PositionSampler, epoch_order, readable_item
from latentsync.data.features import CachedFeature, LiveFeature, latents_compute, latents_feature, mel_feature
from latentsync.data.frames import FrameMemory
from latentsync.data.store import TensorStore, network_key, tensor_length, tensor_rows
from latentsync.data.sync_clips import Augmentation, PixelPictures, SyncClips, rotate_sounds
from latentsync.data.sync_clips import collate as collate_sync
from latentsync.data.unet_clips import ClipBatch, UNetClips, collate, with_latents
from latentsync.face.detection.detector import make_detector
from latentsync.face.masks import load_mask
from latentsync.face.pixels import frames_to_pixels, resize_frames
from latentsync.media.container import MediaError
from latentsync.media.video import clip_reader
from latentsync.media.video.clip_reader import choose_reader, difference_levels, read_clip
from tests.support.clip_files import FRAMES, SIDE, write_clip

WINDOW = 4
DEMO_VIDEO = Path(__file__).resolve().parents[2] / "assets/demo_video.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four valid clips, two of them with the same file name."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(("a.mp4", "b.mp4", "deep/a.mp4", "deep/er/c.MP4")):
        written = write_clip((root / name).with_suffix(".mp4"), number)
        written.rename(root / name)
    return root


@pytest.fixture(scope="module")
def clips(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TrainingClip]:
    return indexed(find_clips(folder), tmp_path_factory.mktemp("cache")).clips


def indexed(paths: list[Path], cache: Path, min_frames: int = 3 * WINDOW) -> ClipIndex:
    return index_clips(paths, min_frames, cache)


def test_folders_are_searched_recursively_and_a_list_replaces_them(folder: Path, tmp_path: Path) -> None:
    names = ["a.mp4", "b.mp4", "deep/a.mp4", "deep/er/c.MP4"]
    assert find_clips(folder) == [folder / name for name in names]
    (folder / "list.txt").write_text(f"\n{folder / 'b.mp4'}\ndeep/a.mp4\n\n{folder / 'b.mp4'}\n")
    assert find_clips(folder, folder / "list.txt") == [folder / "b.mp4", folder / "deep/a.mp4"]
    for arguments, message in [
        (("", ""), "set data.train_data_dir"),
        ((tmp_path / "gone", ""), "does not exist"),
        ((tmp_path, ""), "has no .mp4"),
        (("", tmp_path / "gone.txt"), "cannot be read"),
        (("s3://bucket/clips", ""), "names s3://bucket/clips, but clips are read from a disk"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_clips(*arguments)


def test_lists_may_have_remarks_and_a_byte_order_mark_but_no_addresses(folder: Path) -> None:
    (folder / "list.txt").write_text(f"# chosen by hand\n{folder / 'b.mp4'}\n  # b.mp4\n", encoding="utf-8-sig")
    assert find_clips("", folder / "list.txt") == [folder / "b.mp4"]
    (folder / "list.txt").write_text(f"{folder / 'b.mp4'}\ns3://bucket/a.mp4\n")
    with pytest.raises(ValueError, match="list.txt names s3://bucket/a.mp4, but clips are read from a disk: copy them"):
        find_clips("", folder / "list.txt")


def test_linked_folders_are_searched_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(folder / "deep")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    assert [path.name for path in find_clips(tmp_path / "data")] == ["a.mp4", "c.MP4"]


def test_unusable_clips_are_listed_with_reasons(folder: Path, tmp_path: Path) -> None:
    good = folder / "a.mp4"
    data = good.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    write_clip(tmp_path / "mute.mp4", 1, sound=False)
    write_clip(tmp_path / "short.mp4", 1, frames=3 * WINDOW - 1)
    write_clip(tmp_path / "fast.mp4", 1, fps=30)
    write_clip(tmp_path / "wide.mp4", 1, width=2 * SIDE)
    paths = [*find_clips(tmp_path), tmp_path / "gone.mp4", good]
    index = indexed(paths, tmp_path / "cache")
    assert [clip.path for clip in index.clips] == [good] and index.clips[0].frames == FRAMES
    reasons = {clip.path.stem: clip.reason for clip in index.rejected}
    for name, word in {
        "cut": "cut short|cannot",
        "empty": "empty",
        "text": "Git LFS",
        "mute": "no audio",
        "short": "has 11 frames, 12 are needed",
        "fast": "30.00 frames per second",
        "wide": "128 x 64",
        "gone": "No such file",
    }.items():
        assert re.search(word, reasons[name]), reasons[name]
    assert "1 clips" in describe_index(index) and "8 left out" in describe_index(index)


def test_a_clip_is_checked_once_and_again_when_it_changes(folder: Path, tmp_path: Path, monkeypatch) -> None:
    checked: list[Path] = []
    facts = clips_module.clip_facts
    monkeypatch.setattr(clips_module, "clip_facts", lambda path, reader: (checked.append(path), facts(path, reader))[1])
    clip = shutil.copy(folder / "a.mp4", tmp_path / "x.mp4")
    first = indexed([clip], tmp_path / "cache").clips[0]
    assert indexed([clip], tmp_path / "cache").clips == [first] and len(checked) == 1
    shutil.copy(folder / "a.mp4", tmp_path / "moved.mp4")
    assert indexed([tmp_path / "moved.mp4"], tmp_path / "cache").clips[0].key == first.key and len(checked) == 1
    shutil.copy(folder / "b.mp4", clip)
    assert indexed([clip], tmp_path / "cache").clips[0].key != first.key and len(checked) == 2


def test_decord_is_chosen_only_where_it_agrees_with_pyav(folder: Path, monkeypatch) -> None:
    path = folder / "a.mp4"
    truth = read_clip(path, 3, 23)
    assert truth.shape == (20, SIDE, SIDE, 3)
    with pytest.raises(MediaError, match="ends after 40 frames"):
        read_clip(path, 35, 45)
    if clip_reader.decord() is not None:
        assert choose_reader(path, FRAMES, "decord") == "decord"
        found = read_clip(path, 3, 23, "decord")
        assert max(difference_levels(a, b) for a, b in zip(found, truth, strict=True)) < 2
        assert choose_reader(path, FRAMES - 1, "decord") == "av", "the frame count differs"
        if choose_reader(path, FRAMES, "auto") == "decord":
            assert max(difference_levels(a, b) for a, b in zip(found, truth, strict=True)) <= 1.1
    monkeypatch.setattr(clip_reader, "decord", lambda: None)
    assert choose_reader(path, FRAMES, "decord") == "av"
    with pytest.raises(ValueError, match="must be one of"):
        choose_reader(path, FRAMES, "opencv")  # type: ignore[arg-type]


def numbered_features(clip: TrainingClip) -> dict[str, Tensor]:
    """Stand-in features whose values are the numbers of their rows; `masked_latents` have 1000 added."""
    rows = torch.arange(2.0 * clip.frames)[:, None, None].expand(-1, 2, 3)
    frames = torch.arange(1.0 * clip.frames)[:, None, None, None].expand(-1, 4, 2, 2) + torch.tensor([0, 0.5])
    return {"audio": rows, "latents": frames, "masked_latents": frames + 1000}


def unet_items(clips: list[TrainingClip], cache: Path, mirrored: bool = False) -> UNetClips:
    feature = LiveFeature(numbered_features)
    memory = FrameMemory(32, 10**7)
    return UNetClips(clips, WINDOW, 5, feature, feature, mel_feature(cache), memory, load_mask(32), mirrored)


def same(first: ClipBatch, second: ClipBatch) -> bool:
    parts = first.present(), second.present()
    return parts[0].keys() == parts[1].keys() and all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])


def test_an_item_depends_only_on_its_position(clips: list[TrainingClip], tmp_path: Path) -> None:
    items, others = unet_items(clips, tmp_path), unet_items(clips, tmp_path)
    forward = [items[position] for position in range(9)]
    backward = {position: others[position] for position in reversed(range(9))}
    assert all(same(item, backward[position]) for position, item in enumerate(forward))
    assert not same(forward[0], forward[4]), "each epoch has new random draws"
    loader = DataLoader(items, batch_sampler=PositionSampler(3, stop_step=3), collate_fn=collate, num_workers=2)
    assert all(same(batch, collate(forward[3 * i : 3 * i + 3])) for i, batch in enumerate(loader))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_forked_reader_decodes_what_its_parent_has_decoded(clips: list[TrainingClip]) -> None:
    here = clips[0].faces(0, 3)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    child = context.Process(target=lambda: sender.send(clips[0].faces(0, 3)))
    child.start()
    assert receiver.poll(60), "it waits for threads that only its parent has"
    assert (receiver.recv() == here).all()
    child.join()


def test_datasets_and_features_can_be_pickled(clips: list[TrainingClip], tmp_path: Path) -> None:
    pictures = PixelPictures(FrameMemory(32, 10**7))
    items = SyncClips(clips, WINDOW, 7, pictures, mel_feature(tmp_path))
    first = items[0]
    assert torch.equal(pickle.loads(pickle.dumps(items))[0].image, first.image)
    (tmp_path / "vae.safetensors").write_bytes(b"weights")
    pickle.dumps(latents_feature(tmp_path, tmp_path / "vae.safetensors", load_mask(32)))


def test_an_epoch_visits_every_clip_once(clips: list[TrainingClip]) -> None:
    orders = [epoch_order(len(clips), 5, epoch) for epoch in range(6)]
    assert all(sorted(order) == list(range(len(clips))) for order in orders) and len(set(orders)) > 1


def test_processes_split_a_batch_and_sampling_can_start_at_any_step() -> None:
    whole = list(PositionSampler(4, stop_step=4))
    halves = [list(PositionSampler(4, rank, 2, stop_step=4)) for rank in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole
    assert list(PositionSampler(4, first_step=2, stop_step=4)) == whole[2:]
    with pytest.raises(ValueError, match="must be a multiple of 2"):
        PositionSampler(3, 0, 2)


def test_windows_match_the_clip_and_do_not_overlap_references(clips: list[TrainingClip], tmp_path: Path) -> None:
    items = unet_items(clips, tmp_path)
    mask = load_mask(32)
    for position in range(40):
        item = items[position]
        assert item.latents is not None and item.reference_latents is not None and item.masked_latents is not None
        start, reference = int(item.latents[0, 0, 0, 0]), int(item.reference_latents[0, 0, 0, 0])
        assert abs(start - reference) >= WINDOW and torch.equal(item.masked_latents, item.latents + 1000)
        clip = clips[readable_item(ClipOrder(clips, 5), position, lambda clip, draw: clips.index(clip))]
        pixels = frames_to_pixels(resize_frames(clip.faces(start, start + WINDOW), 32)).transpose(0, 1)
        assert torch.equal(item.pixels, pixels) and torch.equal(item.masked_pixels, pixels * mask)
        assert torch.equal(item.audio, training_windows(numbered_features(clip)["audio"], start, WINDOW))
        assert item.mel.shape == (1, 80, 13)
    batch = collate([items[0], items[1]])
    assert len(batch) == 2 and batch.latents.shape == (2, 4, WINDOW, 2, 2) and batch.audio.shape == (2, WINDOW, 20, 3)


def test_half_of_the_items_are_mirrored_but_not_their_mask(clips: list[TrainingClip], tmp_path: Path) -> None:
    plain, mirrored = unet_items(clips, tmp_path), unet_items(clips, tmp_path, mirrored=True)
    is_mirrored = []
    for position in range(24):
        one, other = plain[position], mirrored[position]
        assert torch.equal(one.audio, other.audio) and torch.equal(one.mel, other.mel)
        assert torch.equal(other.masked_pixels, other.pixels * load_mask(32))
        is_mirrored.append(not torch.equal(one.pixels, other.pixels))
        for name in ("pixels", "reference_pixels", "latents", "masked_latents", "reference_latents"):
            expected = getattr(one, name)
            assert torch.equal(getattr(other, name), expected.flip(-1) if is_mirrored[-1] else expected)
    assert 6 <= sum(is_mirrored) <= 18


def test_with_latents_encodes_every_frame(clips: list[TrainingClip]) -> None:
    batch = collate([UNetClips(clips, WINDOW, 5, frames=FrameMemory(32, 0), mask=load_mask(32))[n] for n in range(2)])
    encoded = with_latents(batch, lambda pixels: pixels[:, :, ::8, ::8])
    assert torch.equal(encoded.latents, batch.pixels[..., ::8, ::8])
    assert torch.equal(encoded.masked_latents, batch.masked_pixels[..., ::8, ::8])
    assert torch.equal(encoded.reference_latents, batch.reference_pixels[..., ::8, ::8])


def test_a_clip_that_becomes_unreadable_is_replaced(folder: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(folder, tmp_path / "clips")
    clips = indexed(find_clips(tmp_path / "clips"), tmp_path / "cache").clips
    items = UNetClips(clips, WINDOW, 5, frames=FrameMemory(32, 0), mask=load_mask(32))
    (tmp_path / "clips/b.mp4").write_bytes(b"\0" * 1000)
    assert all(items[position].pixels is not None for position in range(8))
    assert "b.mp4" in caplog.text
    for clip in clips:
        clip.path.unlink()
    with pytest.raises(MediaError, match="8 clips in a row"):
        items[0]


def test_frame_memory_keeps_what_fits_and_returns_the_same_frames(clips: list[TrainingClip]) -> None:
    size = FRAMES * 16 * 32 * 3
    some, none = FrameMemory(32, 2 * size, lower_half=True), FrameMemory(32, 0, lower_half=True)
    for clip in clips:
        assert torch.equal(some.frames(clip, 5, 9), none.frames(clip, 5, 9))
    assert len(some.kept) == 2 and some.used_bytes == 2 * size and not none.kept


def test_features_are_cached_by_content(clips: list[TrainingClip], folder: Path, tmp_path: Path) -> None:
    computed: list[Path] = []

    def compute(clip: TrainingClip) -> dict[str, Tensor]:
        computed.append(clip.path)
        return {"audio": torch.full((3, 1), float(len(computed)))}

    feature = CachedFeature(tmp_path, "whisper", {"network": "x"}, lambda: compute)
    assert len(feature.missing(clips)) == 4
    assert len(list(feature.fill(clips))) == 4 and len(computed) == 4
    same_name = [clip for clip in clips if clip.path.stem == "a"]
    assert len({float(feature.rows(clip, "audio", 0, 1)) for clip in same_name}) == 2
    assert not feature.missing(clips)
    shutil.copy(folder / "a.mp4", tmp_path / "other name.mp4")
    copied = indexed([tmp_path / "other name.mp4"], tmp_path / "c").clips
    list(feature.fill(copied))
    assert len(computed) == 4, "equal content is found in the cache"
    other = CachedFeature(tmp_path, "whisper", {"network": "y"}, lambda: compute)
    assert len(other.missing(clips)) == 4
    feature.store.path(clips[0].key).write_bytes(b"damaged")
    assert float(feature.rows(clips[0], "audio", 0, 1)) == 5.0 and feature.length(clips[0], "audio") == 3
    assert json.loads((feature.folder / "settings.json").read_text())["network"] == "x"


def test_network_keys_depend_on_the_bytes_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text("{}")
    before = network_key(tmp_path / "vae")
    (tmp_path / "vae/config.json").write_text("{ }")
    assert network_key(tmp_path / "vae") != before
    with pytest.raises(ValueError, match="no weights"):
        network_key(tmp_path / "gone")


def fill_store(folder: Path, rounds: int) -> None:
    store = TensorStore(folder)
    for number in range(rounds):
        store.put(f"{number % 5:02x}", {"audio": torch.full((5000, 8), float(number % 5))})


def test_two_processes_write_to_the_same_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    writers = [context.Process(target=fill_store, args=(tmp_path, 40)) for _ in range(2)]
    for writer in writers:
        writer.start()
    store = TensorStore(tmp_path)
    while any(writer.is_alive() for writer in writers):
        for number in range(5):
            rows = tensor_rows(store.path(f"{number:02x}"), "audio", 0, 5000)
            assert rows is None or bool((rows == number).all()), "a file is complete or missing"
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert all(tensor_length(store.path(f"{number:02x}"), "audio") == 5000 for number in range(5))
    assert not list(tmp_path.rglob("*.partial"))


def test_an_unwritable_cache_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        TensorStore(tmp_path / "file").put("ab", {"x": torch.zeros(1)})


def test_latents_are_computed_of_unmasked_and_masked_faces(clips: list[TrainingClip]) -> None:
    mask = torch.ones(32, 32)
    mask[16:] = 0
    made = latents_compute(lambda pixels: pixels.mean((2, 3), keepdim=True), mask)(clips[0])
    pixels = frames_to_pixels(resize_frames(clips[0].faces(0, FRAMES), 32))
    torch.testing.assert_close(made["latents"].float(), pixels.mean((2, 3), keepdim=True), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        made["masked_latents"].float(), (pixels * mask).mean((2, 3), keepdim=True), atol=1e-3, rtol=0
    )


def test_sync_groups_are_balanced_and_mismatched_windows_are_min_shift_apart(
    clips: list[TrainingClip], tmp_path: Path
) -> None:
    pictures = PixelPictures(FrameMemory(32, 10**7, lower_half=True))
    items = SyncClips(clips, WINDOW, 7, pictures, mel_feature(tmp_path), min_shift=6)
    group = items[0]
    assert group.image.shape == (4, 12, 16, 32) and group.mel.shape == (4, 1, 80, 13) and group.mouth is None
    assert collate_sync([items[0], items[1]]).image.shape[0] == 8
    for position in range(12):
        starts = [find_start(items, clips, window) for window in items[position].image]
        assert starts[0][0] == starts[1][0] != starts[2][0] == starts[3][0]
        assert all(abs(starts[i][1] - starts[i + 1][1]) >= 6 for i in (0, 2))
    assert rotate_sounds(torch.arange(8)[:, None]).flatten().tolist() == [1, 2, 3, 0, 5, 6, 7, 4]


def find_start(items: SyncClips, clips: list[TrainingClip], window: Tensor) -> tuple[int, int]:
    for number, clip in enumerate(clips):
        for start in range(clip.frames - WINDOW + 1):
            if torch.equal(items.pictures.window(clip, start, WINDOW).flatten(0, 1), window):
                return number, start
    raise AssertionError("the window is not from any clip")


def test_augmentation_is_deterministic_for_an_item(clips: list[TrainingClip], tmp_path: Path) -> None:
    def items(augmentation: Augmentation) -> SyncClips:
        pictures = PixelPictures(FrameMemory(32, 10**7, lower_half=True))
        return SyncClips(clips, WINDOW, 7, pictures, mel_feature(tmp_path), 5, augmentation)

    changed = Augmentation(jitter_px=2, brightness=0.1, mel_noise=0.2)
    first, again, plain = items(changed)[3], items(changed)[3], items(Augmentation())[3]
    assert torch.equal(first.image, again.image) and torch.equal(first.mel, again.mel)
    assert not torch.equal(first.image, plain.image) and 0.15 < float((first.mel - plain.mel).std()) < 0.25
    mirrored, straight = items(Augmentation(mirrored=True)), items(Augmentation())
    turned = [torch.equal(mirrored[n].image, straight[n].image.flip(-1)) for n in range(8)]
    assert set(turned) == {False, True}
    assert all(torch.equal(mirrored[n].image, straight[n].image) for n in range(8) if not turned[n])


def test_items_have_mouth_tracks_if_all_clips_do(folder: Path, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(folder / ("a.mp4", "b.mp4")[number], tmp_path / f"{number}.mp4")
        truth = {"aperture": np.linspace(0, 1, FRAMES).tolist(), "width": [0.5] * FRAMES}
        (tmp_path / f"{number}.json").write_text(json.dumps(truth))
    clips = indexed(find_clips(tmp_path), tmp_path / "cache").clips
    items = SyncClips(clips, WINDOW, 7, PixelPictures(FrameMemory(32, 10**7)), mel_feature(tmp_path))
    mouth = items[0].mouth
    assert mouth is not None and mouth.shape == (4, WINDOW, 2) and bool((mouth[..., 0].diff(dim=1) > 0).all())
    (tmp_path / "1.json").write_text("{}")
    assert clips[1].mouth() is None


def test_aligned_clips_are_valid_training_clips(tmp_path: Path) -> None:
    video = shutil.copy(DEMO_VIDEO, tmp_path / "talk.mp4")
    known = {"aperture": [0.5] * 200, "width": [1.0] * 200, "landmarks": "of the video's own pixels"}
    (tmp_path / "talk.json").write_text(json.dumps(known))
    clip = align_clip(video, tmp_path / "clips/talk.mp4", make_detector(), 64)
    stamp = clip.stat().st_mtime_ns
    assert align_clip(video, clip, make_detector(), 64).stat().st_mtime_ns == stamp, "a finished clip is kept"
    (found,) = indexed(find_clips(tmp_path / "clips"), tmp_path / "cache").clips
    faces = np.stack(list(aligned_faces(video, make_detector(), 64)))
    assert found.frames == len(faces) and found.size_px == 64
    error = np.abs(found.faces(0, found.frames).astype(int) - faces).mean()
    assert error < 3, f"{error:.2f} levels"
    assert found.mouth() is not None and set(json.loads(clip.with_suffix(".json").read_text())) == {"aperture", "width"}
