"""The video transformer and the temporal loss on a small network."""

import pytest
import torch

from latentsync.losses.trepa import trepa_features, trepa_loss, video_input
from latentsync.models.videomae import VideoMAE, VideoMAEConfig, empty_videomae, load_videomae
from latentsync.weights import CheckpointError

CONFIG = VideoMAEConfig(img_size=28, embed_dim=16, depth=2, num_heads=2, mlp_hidden=24, all_frames=8, num_classes=5)


@pytest.fixture
def net() -> VideoMAE:
    torch.manual_seed(0)
    return VideoMAE(CONFIG).eval().requires_grad_(False)


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.rand(2, 3, 8, 40, 36, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_loss_is_zero_for_equal_clips_and_sees_the_order_of_frames(net, clips):
    assert trepa_loss(net, clips, clips) == 0
    assert trepa_loss(net, clips.flip(2), clips) > 1e-9
    with pytest.raises(ValueError, match="same"):
        trepa_loss(net, clips, clips[:1])


def test_only_the_generated_clip_receives_a_gradient(net, clips):
    fake, real = clips.clone().requires_grad_(), clips.flip(0).requires_grad_()
    trepa_loss(net, fake, real).backward()
    assert fake.grad is not None and fake.grad.abs().amax(dim=(1, 3, 4)).min() > 0  # in every frame
    assert real.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())


def test_features_have_unit_length_and_do_not_depend_on_the_batch(net, clips):
    together = trepa_features(net, clips)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(together, torch.cat([trepa_features(net, clip[None]) for clip in clips]))


def test_checkpointing_changes_memory_and_nothing_else(net, clips):
    gradients = []
    for enabled in (False, True):
        net.enable_gradient_checkpointing(enabled)
        fake = clips.clone().requires_grad_()
        gradients.append(torch.autograd.grad(trepa_loss(net, fake, clips.flip(0)), fake)[0])
    torch.testing.assert_close(*gradients)


def test_half_precision_network_gives_a_float32_loss(net, clips):
    loss = trepa_loss(net, clips, clips.flip(0))
    half = trepa_loss(net.bfloat16(), clips, clips.flip(0))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss, rtol=0.2, atol=0)


def test_input_is_cut_to_the_range_and_left_alone_where_it_fits():
    pixels = torch.full((1, 3, 2, 28, 28), -0.5)
    assert torch.equal(video_input(pixels, 28), torch.full_like(pixels, 0.25))
    stripes = torch.ones(1, 3, 2, 20, 20)
    stripes[..., ::3] = -1
    resized = video_input(stripes, 28)
    assert resized.min() == 0 and resized.max() == 1


@pytest.mark.parametrize(("shape", "message"), [((1, 3, 8, 28, 30), "30x28"), ((1, 3, 7, 28, 28), "a multiple of 2")])
def test_unfit_clips_are_refused(net, shape, message):
    with pytest.raises(ValueError, match=message):
        net.features(torch.zeros(shape))


def test_shorter_clips_and_the_full_table_fit(net):
    assert net(torch.zeros(1, 3, 4, 28, 28)).shape == (1, 5)
    giant = empty_videomae()
    assert giant.state_dict()["blocks.39.attn.qkv.weight"].shape == (4224, 1408)
    assert sum(parameter.numel() for parameter in giant.parameters()) == 1_011_855_918


@pytest.mark.parametrize("container", ["model", "module", None])
def test_public_files_load_strictly(tmp_path, net, clips, container):
    path, state = tmp_path / "vit.pth", net.state_dict()
    torch.save({container: state, "epoch": 3} if container else state, path)
    loaded = load_videomae(path, CONFIG)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(trepa_features(loaded, clips), trepa_features(net, clips))
    del state["fc_norm.bias"]
    torch.save({container: state} if container else state, path)
    with pytest.raises(CheckpointError, match="fc_norm.bias"):
        load_videomae(path, CONFIG)
