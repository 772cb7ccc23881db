"""Face boxes for SyncNet v2: S3FD as published, or OpenCV's cascade, which needs no weights."""

import cv2
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torchvision.ops import nms

from latentsync.face.detection.detector import FaceDetector
from latentsync.models.s3fd import MEAN_RGB, S3FD, detections

SCALE = 0.25  # of the frame before detection
MIN_SCORE = 0.9
MAX_OVERLAP = 0.1  # intersection over union of two faces of a frame


class S3FDBoxes:
    """All faces that S3FD finds with a score above `MIN_SCORE` in the frame at a quarter of its size."""

    def __init__(self, network: S3FD) -> None:
        self.network = network

    def reset(self) -> None:
        """Does nothing: each frame is processed independently."""

    @torch.no_grad()
    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Boxes [k, 4] of uint8 [h, w, 3] RGB, by falling score."""
        height, width = frame.shape[:2]
        small = cv2.resize(frame, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        parameter = next(self.network.parameters())
        image = torch.from_numpy(small - np.array(MEAN_RGB, np.float32)).to(parameter)
        loc, conf, priors = self.network(rearrange(image, "h w c -> 1 c h w"))
        found = detections(loc[0], conf[0, :, 1], priors).float().cpu()
        found = found[found[:, 0] > MIN_SCORE]
        boxes = found[:, 1:] * torch.tensor([width, height, width, height], dtype=torch.float32)
        return boxes[nms(boxes, found[:, 0], MAX_OVERLAP)].numpy()


class DetectorBoxes:
    """The faces of the project's own detector: a stand-in for S3FD."""

    def __init__(self, detector: FaceDetector) -> None:
        self.detector = detector

    def reset(self) -> None:
        self.detector.reset()

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Boxes [k, 4] of uint8 [h, w, 3] RGB."""
        return np.array([face.box for face in self.detector.faces(frame)], np.float64).reshape(-1, 4)
