"""Features for the comparison of sets of videos: I3D for FVD, Inception for FID, CLIP for CMMD.

The networks are TorchScript programs. b images, c f h w, d features.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from latentsync.face.detection.detector import FaceDetector
from latentsync.media.probe import probe
from latentsync.media.video.read import frames_at
from latentsync.metrics.pictures.set_distances import FIRST_FRAME, NUM_FRAMES, scored_face, scored_frames
from latentsync.metrics.statistics import NO_FACE, TOO_SHORT, UnscorableError
from latentsync.timebase import MODEL_FPS, frames_in

PICTURES_PER_VIDEO = 8  # at equal distances, for FID and CMMD
CLIP_PX = 336
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def scored_clip(video: Path, detector: FaceDetector) -> NDArray[np.float32]:
    """The faces that FVD uses, [16, 224, 224, 3] in [0, 1]: frames 20 to 35, cropped without margin.

    The face is tracked from the first frame.

    Raises:
        UnscorableError: the video is shorter than 36 frames, or one of them shows no face.
        MediaError: it cannot be read.
    """
    detector.reset()
    faces = []
    stop = FIRST_FRAME + NUM_FRAMES
    for index, shown in enumerate(islice(frames_at(video, MODEL_FPS), stop)):
        found = detector.points(shown.frame)
        if index < FIRST_FRAME:
            continue
        if found is None:
            raise UnscorableError(NO_FACE, f"{video}: no face at {shown.time_sec:.2f} s.")
        height, width = shown.frame.shape[:2]
        left, top, right, bottom = found.box
        box = (left / width, top / height, (right - left) / width, (bottom - top) / height)
        faces.append(scored_face(shown.frame, box))
    try:
        scored_frames(FIRST_FRAME + len(faces))
    except ValueError as error:
        raise UnscorableError(TOO_SHORT, f"{video}: {error}") from error
    return np.stack(faces)


@torch.no_grad()
def i3d_features(network: torch.jit.ScriptModule, clip: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features [d] of one clip [16, 224, 224, 3] in [0, 1] by the public I3D program, as a batch of one."""
    video = rearrange(torch.from_numpy(clip), "f h w c -> 1 c f h w")
    return network(video, rescale=False, resize=False, return_features=True)[0].double().numpy()


def spread_frames(video: Path, count: int = PICTURES_PER_VIDEO) -> NDArray[np.uint8]:
    """`count` frames of a video at equal distances, uint8 [count, h, w, 3]; fewer if the video has fewer."""
    total = max(1, frames_in(probe(video).duration_sec))
    chosen = {round(at) for at in np.linspace(0, total - 1, count)}
    return np.stack([s.frame for index, s in enumerate(frames_at(video, MODEL_FPS)) if index in chosen])


@torch.no_grad()
def inception_features(network: torch.jit.ScriptModule, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features [b, 2048] of frames [b, h, w, 3] by the public Inception program (`inception-2015-12-05.pt`)."""
    pictures = rearrange(torch.from_numpy(frames), "b h w c -> b c h w")
    return np.stack([network(picture[None], return_features=True)[0].double().numpy() for picture in pictures])


@torch.no_grad()
def clip_features(network: torch.jit.ScriptModule, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Unit-length features [b, d] of frames [b, h, w, 3] by a traced CLIP image encoder (ViT-L/14 at 336 px)."""
    return np.stack([_unit(network(_clip_input(frame))[0].double()).numpy() for frame in frames])


def _clip_input(frame: NDArray[np.uint8]) -> Tensor:
    picture = rearrange(torch.from_numpy(frame).float() / 255, "h w c -> 1 c h w")
    side = min(picture.shape[-2:])
    top, left = ((size - side) // 2 for size in picture.shape[-2:])
    square = picture[..., top : top + side, left : left + side]
    resized = F.interpolate(square, size=(CLIP_PX, CLIP_PX), mode="bicubic", antialias=True).clamp(0, 1)
    return normalize(resized, CLIP_MEAN, CLIP_STD)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()
