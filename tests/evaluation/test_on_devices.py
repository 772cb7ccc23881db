"""The networks of the metrics on simulated devices: results are on the host and equal the CPU's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentsync.metrics.sync.box_detectors import S3FDBoxes
from latentsync.metrics.sync.offset import embed_track
from latentsync.metrics.sync.stable import embed_lips, embed_sound
from latentsync.models.hyper_iqa import HyperIQA, quality_inputs
from latentsync.models.s3fd import S3FD
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig
from latentsync.models.syncnet_v2 import SyncNetV2
from tests.support.device_labels import Kind, repeated
from tests.support.simulated_device import SimulatedDevice
from tests.support.tiny import waveform
from tests.support.tiny_training import NUM_FRAMES, RESOLUTION, SYNCNET

RANDOM = np.random.default_rng(0)
FACES = RANDOM.integers(0, 256, (7, 224, 224, 3), np.uint8)
SOUND = waveform(0.4)
Measure = Callable[[Any], list[Tensor]]
Make = Callable[[], nn.Module]

STABLE: tuple[Make, Measure] = (
    lambda: StableSyncNet(SyncNetConfig.from_dict(SYNCNET)),
    lambda net: [embed_lips(net, FACES, RESOLUTION, NUM_FRAMES), embed_sound(net, SOUND, NUM_FRAMES)],
)
EXPERT: tuple[Make, Measure] = (
    SyncNetV2,
    lambda net: [each.cpu() for each in embed_track(net, FACES, len(FACES), 3000 * SOUND)],
)
QUALITY: tuple[Make, Measure] = (
    HyperIQA,
    lambda net: [net(quality_inputs(torch.from_numpy(FACES[:1])).to(next(net.parameters()).device)).detach().cpu()],
)


def measured(make: Make, measure: Measure, kind: Kind | None) -> list[Tensor]:
    """What a network with random weights measures on a simulated device, or on the CPU."""
    torch.manual_seed(0)
    net = make().eval().requires_grad_(False)
    if kind is None:
        return measure(net)
    with SimulatedDevice(kind) as simulated:
        net.to(simulated.device)
        simulated.copies.clear()
        results = measure(net)
        assert not repeated(simulated.copies)
        assert all(result.device.type == "cpu" for result in results)
        return results


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize(
    ("make", "measure"),
    [STABLE, pytest.param(*EXPERT, marks=pytest.mark.slow), pytest.param(*QUALITY, marks=pytest.mark.slow)],
    ids=["StableSyncNet", "SyncNet v2", "HyperIQA"],
)
def test_networks_measure_what_they_measure_on_the_cpu(make: Make, measure: Measure, kind: Kind) -> None:
    for here, there in zip(measured(make, measure, None), measured(make, measure, kind), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["cuda", pytest.param("mps", marks=pytest.mark.slow)])
def test_boxes_of_faces_are_arrays_of_the_host(kind: Kind) -> None:
    torch.manual_seed(0)
    net = S3FD().eval().requires_grad_(False)
    frame = RANDOM.integers(0, 256, (128, 128, 3), np.uint8)
    with SimulatedDevice(kind) as simulated:
        boxes = S3FDBoxes(net.to(simulated.device))(frame)
    assert isinstance(boxes, np.ndarray) and boxes.shape[1] == 4
