"""Aligned clips on disk: faces of one clip as one array that is read at random without decoding.

A folder holds NAME.faces.npy, uint8 [t, r, r, 3], and NAME.audio.npy, float32 [n] at 16 kHz, for every clip; for clips whose
mouth movement is known (avatars), also NAME.mouth.npy, float32 [t, 2]: aperture and width.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from latentsync.face.align import Smoother, align_matrix, warp_face
from latentsync.face.detect import FaceDetector
from latentsync.media.audio import read_audio
from latentsync.media.read import frames_at
from latentsync.timebase import MODEL_FPS

FACES, AUDIO, MOUTH = ".faces.npy", ".audio.npy", ".mouth.npy"


class NoFaceError(ValueError):
    """A frame of a training clip shows no face, so the clip cannot be aligned throughout."""


@dataclass(frozen=True)
class AlignedClip:
    """One aligned clip of a folder."""

    folder: Path
    name: str

    @cached_property
    def faces(self) -> np.ndarray:
        """uint8 [t, r, r, 3], mapped from disk."""
        return np.load(self.folder / f"{self.name}{FACES}", mmap_mode="r")

    @cached_property
    def waveform(self) -> np.ndarray:
        """float32 [n] at 16 kHz."""
        return np.load(self.folder / f"{self.name}{AUDIO}")

    @cached_property
    def mouth(self) -> np.ndarray | None:
        """float32 [t, 2], aperture and width of the mouth, where they are known."""
        path = self.folder / f"{self.name}{MOUTH}"
        return np.load(path) if path.exists() else None

    def __len__(self) -> int:
        return len(self.faces)


def aligned_clips(folder: Path | str) -> list[AlignedClip]:
    """All complete clips of a folder by name; ValueError if there is none."""
    folder = Path(folder)
    names = sorted(path.name.removesuffix(AUDIO) for path in folder.glob(f"*{AUDIO}"))
    if not names:
        raise ValueError(f"{folder} holds no aligned clips; make them with `python -m scripts.align_clips`.")
    return [AlignedClip(folder, name) for name in names]


def align_clip(video: Path, folder: Path, detector: FaceDetector, resolution: int) -> AlignedClip:
    """Align every frame of a video at 25 fps and store the result; the audio is written last and marks a complete clip.

    Raises:
        NoFaceError: a frame shows no face.
    """
    clip = AlignedClip(folder, video.stem)
    if (folder / f"{clip.name}{AUDIO}").exists():
        return clip
    faces = np.stack(list(aligned_faces(video, detector, resolution)))
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / f"{clip.name}{FACES}", faces)
    if video.with_suffix(".json").exists():
        _save(folder / f"{clip.name}{MOUTH}", known_mouth(video.with_suffix(".json"))[: len(faces)])
    _save(folder / f"{clip.name}{AUDIO}", read_audio(video))
    return clip


def known_mouth(truth: Path) -> np.ndarray:
    """Aperture and width of the mouth, float32 [t, 2], from an avatar's truth file."""
    stored = json.loads(truth.read_text())
    return np.stack([stored["aperture"], stored["width"]], axis=1).astype(np.float32)


def aligned_faces(video: Path, detector: FaceDetector, resolution: int) -> Iterator[np.ndarray]:
    """The aligned face, uint8 [r, r, 3], of every frame of a video at 25 fps; NoFaceError at the first frame without one."""
    smoother = Smoother()
    detector.reset()
    for shown in frames_at(video, MODEL_FPS):
        found = detector.points(shown.frame)
        if found is None:
            raise NoFaceError(f"{video}: no face at {shown.time_sec:.2f} s.")
        yield warp_face(shown.frame, align_matrix(found.points, resolution, smoother), resolution)


def _save(path: Path, array: np.ndarray) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def random_frames(clips: list[AlignedClip], count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` single frames: uint8 [count, r, r, 3]."""
    chosen = torch.randint(len(clips), (count,), generator=generator).tolist()
    at = torch.rand(count, generator=generator).tolist()
    return torch.from_numpy(
        np.stack([clips[c].faces[int(share * len(clips[c]))] for c, share in zip(chosen, at, strict=True)])
    )
