"""The simulated device itself: what it refuses, what it allows as PyTorch does, what it logs, and that it leaves no trace."""

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.device_labels import CPU, place_of, repeated
from tests.support.simulated_device import SimulatedDevice


@pytest.fixture
def gpu() -> Iterator[SimulatedDevice]:
    with SimulatedDevice("cuda") as simulated:
        yield simulated


def on_gpu(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "sum": (lambda: on_gpu(3) + torch.ones(3), "same device"),
    "sum in place": (lambda: torch.ones(3).add_(on_gpu(3)), "same device"),
    "a number of the device": (lambda: torch.ones(3) * on_gpu(), "same device"),
    "concatenated": (lambda: torch.cat([on_gpu(1), torch.ones(1)]), "same device"),
    "stacked numbers": (lambda: torch.stack([on_gpu(), torch.ones(())]), "same device"),
    "layer": (lambda: nn.Linear(3, 3)(on_gpu(1, 3)), "same device"),
    "index of the device": (lambda: torch.ones(3)[torch.tensor([0], device="cuda")], "same device"),
    "numpy": (lambda: on_gpu(3).numpy(), "numpy"),
    "array": (lambda: np.asarray(on_gpu(3)), "numpy"),
    "generator of the host": (lambda: torch.randn(3, device="cuda", generator=torch.Generator()), "generator"),
    "the same in place": (lambda: on_gpu(3).normal_(generator=torch.Generator()), "generator"),
    "generator of the device": (lambda: torch.randn(3, generator=torch.Generator("cuda")), "generator"),
    "half of a product": (lambda: F.linear(on_gpu(3, 3), on_gpu(3, 3).half()), "type"),
    "half of a convolution": (lambda: F.conv1d(on_gpu(1, 3, 3).half(), on_gpu(3, 3, 3)), "type"),
    "half of an attention": (lambda: F.scaled_dot_product_attention(on_gpu(1, 1, 3, 4).half(), *2 * [keys()]), "type"),
    "half of a norm": (lambda: F.layer_norm(on_gpu(3).half(), (3,), on_gpu(3)), "type"),
    "second device": (lambda: on_gpu(3).to("cuda:1"), "not a device"),
    "other device": (lambda: torch.zeros(3, device="mps"), "not a device"),
}


def keys() -> Tensor:
    return on_gpu(1, 1, 3, 4)


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("inference", [False, True])
def test_mistakes_are_refused(
    gpu: SimulatedDevice, mistake: Callable[[], object], message: str, inference: bool
) -> None:
    with torch.inference_mode(inference), pytest.raises((RuntimeError, TypeError), match=message):
        mistake()


def test_mps_refuses_doubles_and_views_in_attention() -> None:
    with SimulatedDevice("mps") as simulated:
        for make in (
            lambda: torch.zeros(3, device="mps", dtype=torch.float64),
            lambda: torch.zeros(3, device="mps").double(),
        ):
            with pytest.raises(TypeError, match="float64"):
                make()
        views = torch.zeros(1, 5, 2, 4, device=simulated.device).transpose(1, 2)
        with pytest.raises(RuntimeError, match="not contiguous"):
            F.scaled_dot_product_attention(views, views, views)


def test_what_pytorch_allows_is_allowed(gpu: SimulatedDevice) -> None:
    tensor, like = on_gpu(3), torch.zeros(3, dtype=torch.float16)
    found = [
        tensor * torch.tensor(2.0),
        tensor[torch.tensor([0, 2])],
        tensor.masked_fill(tensor > 0, torch.tensor(1.0)),
        torch.randn(3, device="cuda", generator=torch.Generator("cuda")),
        torch.zeros_like(tensor),
        tensor.new_ones(2),
        torch.as_tensor([1.0], device="cuda"),
        like.to(tensor),
        torch.zeros(3).cuda().half()[None],
        copy.deepcopy(tensor),
    ]
    assert {(each.device, each.is_cuda, each.is_cpu) for each in found} == {(gpu.device, True, False)}
    there = [tensor.cpu(), tensor.to(like), torch.zeros_like(tensor, device="cpu"), torch.zeros(3), like.clone()]
    assert {(each.device, each.is_cuda, each.is_cpu) for each in there} == {(CPU, False, True)}
    assert tensor.to("cuda") is tensor and tensor.to(gpu.device, torch.float32) is tensor


def test_modules_optimizers_and_threads_stay_on_the_device(gpu: SimulatedDevice) -> None:
    """The parameters are the same objects, as with a real device, so that an optimizer made before keeps them."""
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(net.parameters())
    net.to(gpu.device)
    errors: list[BaseException] = []

    def step() -> None:
        try:
            net(on_gpu(4, 3)).square().sum().backward()
            optimizer.step()
            net(torch.ones(4, 3))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "same device" in str(errors[0])
    tensors = [*net.parameters(), *net.buffers(), *(entry["exp_avg"] for entry in optimizer.state.values())]
    assert {place_of(tensor) for tensor in tensors} == {gpu.device}
    assert all(parameter.grad is not None and place_of(parameter.grad) == gpu.device for parameter in net.parameters())


def test_autocast_is_that_of_a_gpu(gpu: SimulatedDevice) -> None:
    net, norm = nn.Linear(3, 3).to(gpu.device), nn.LayerNorm(3).to(gpu.device)
    with torch.autocast("cuda"):
        product = net(on_gpu(1, 3))
        assert (product.dtype, norm(product).dtype) == (torch.float16, torch.float32)


def test_copies_and_reads_are_logged_with_their_lines(gpu: SimulatedDevice) -> None:
    source, target = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3)
    tensor = source.to("cuda", torch.float16)
    target.copy_(tensor)
    float(tensor.sum()), bool((tensor > 1).any()), tensor.nonzero(), tensor[tensor > 1], tensor.tolist()
    tensor.reshape(3, 2).contiguous().float()
    assert [(entry.direction, entry.shape) for entry in gpu.copies] == [
        ("to device", (2, 3)),
        ("to host", (2, 3)),
        ("read", ()),
        ("read", ()),
        ("read", (2, 3)),
        ("read", (2, 3)),
        ("to host", (2, 3)),
    ]
    assert gpu.copies[0].dtype == torch.float32
    assert {entry.line.split(":")[0] for entry in gpu.copies} == {"tests/test_simulated_device.py"}


def test_a_second_copy_of_the_same_values_is_found(gpu: SimulatedDevice) -> None:
    large, array = torch.rand(40, 40), np.random.default_rng(0).random((40, 40), np.float32)
    for _ in range(2):
        large.to("cuda")
        torch.from_numpy(array).to("cuda")  # a new tensor each time
        torch.rand(40, 40).to("cuda")
    assert len(repeated(gpu.copies)) == 2
    assert not repeated(gpu.copies, least_bytes=10_000)


def test_stored_tensors_come_back_to_their_device_or_where_they_are_mapped(
    gpu: SimulatedDevice, tmp_path: Path
) -> None:
    torch.save({"there": on_gpu(3), "here": torch.ones(3)}, tmp_path / "state.pt")
    assert [place_of(each) for each in torch.load(tmp_path / "state.pt").values()] == [gpu.device, CPU]
    mapped = torch.load(tmp_path / "state.pt", map_location="cpu")
    assert {place_of(each) for each in mapped.values()} == {CPU}


def test_nothing_remains_afterwards() -> None:
    names = ("device", "to", "numpy", "__deepcopy__")
    before = [getattr(torch.Tensor, name) for name in names], torch.zeros, torch.Generator, threading.Thread.run
    with pytest.raises(ZeroDivisionError), SimulatedDevice("cuda"):
        raise ZeroDivisionError
    assert before == (
        [getattr(torch.Tensor, name) for name in names],
        torch.zeros,
        torch.Generator,
        threading.Thread.run,
    )
    assert "device" not in vars(torch.Tensor) and torch.zeros(1).device == CPU
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "simulated"
