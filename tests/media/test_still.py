"""Still images are videos of one upright frame."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from latentsync.media.container import MediaError
from latentsync.media.probe import probe
from latentsync.media.video.read import frame_times, frames_at, frames_between, read_frames
from latentsync.media.video.write import VideoFormat
from tests.support.media_clips import patches

# Exif 2.32, 4.6.4: where row 0 and column 0 of the stored picture are seen
UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 3),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: np.rot90(image, 1),
}


def store_still(path: Path, image: np.ndarray, orientation: int = 1) -> Path:
    """An image in the format of the name's ending, with an EXIF orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    quality = {"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {"lossless": True}
    Image.fromarray(image).save(path, exif=exif if orientation != 1 else b"", **quality)
    return path


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_still_image_is_one_frame(tmp_path: Path, ending: str) -> None:
    image = patches(64, 96)
    path = store_still(tmp_path / f"i.{ending}", image)
    info = probe(path)
    assert (info.is_still, info.frame_count, info.duration_sec, info.variable_rate) == (True, 1, 0.0, False)
    assert (info.width, info.height, info.fps, frame_times(path)) == (96, 64, 25, [0, 0])
    for frames in (read_frames(path), frames_at(path, 25), frames_between(path, 25, 0, 9)):
        (shown,) = frames
        shift = np.abs(shown.frame.astype(int) - image)[8::16, 8::16]
        assert shown.time_sec == 0 and shift.max() <= (0 if ending == "png" else 6)
    assert VideoFormat.like(info).time_base == Fraction(1, 25)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_respected(tmp_path: Path, orientation: int, ending: str) -> None:
    image = patches(64, 96)
    path = store_still(tmp_path / f"i.{ending}", image, orientation)
    upright = UPRIGHT[orientation](image)
    info, shown = probe(path), next(read_frames(path)).frame
    assert (info.height, info.width) == shown.shape[:2] == upright.shape[:2]
    assert np.abs(shown.astype(int) - upright)[8::16, 8::16].max() <= 6


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"nonsense"], ids=["empty", "cut", "long", "none"]
)
def test_damaged_exif_data_is_ignored(tmp_path: Path, block: bytes) -> None:
    for ending in ("jpg", "webp"):  # libav refuses such a PNG file
        path = tmp_path / f"i.{ending}"
        Image.fromarray(patches(64, 96)).save(path, exif=b"Exif\0\0" + block)
        info = probe(path)
        assert (info.width, info.height, info.rotation) == (96, 64, 0)


def test_a_damaged_image_is_refused(tmp_path: Path) -> None:
    path = store_still(tmp_path / "i.png", patches())
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(MediaError, match=r"i\.png"):
        probe(path)
