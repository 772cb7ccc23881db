"""StableSyncNet, its geometry check and the sync loss."""

import copy

import pytest
import torch

from latentsync.losses.sync import sync_loss, sync_similarity
from latentsync.models.syncnet import StableSyncNet, SyncNetConfig, check_geometry, pack_frames
from tests.golden.wav2lip_syncnet import Wav2LipSyncNet

SECTIONS = {
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 64, 128, 256],
        "downsample_factors": [[2, 1], 2, 2, [2, 3]],
        "attn_blocks": [0, 0, 1, 0],
    },
    "visual_encoder": {
        "in_channels": 12,
        "block_out_channels": [32, 64, 64, 256],
        "downsample_factors": [[1, 2], 2, 2, 2],
        "attn_blocks": [0, 0, 1, 0],
    },
}
IMAGE_SIZE, MEL_SIZE = (8, 16), (20, 13)


@pytest.fixture
def net() -> StableSyncNet:
    torch.manual_seed(0)
    return StableSyncNet(SyncNetConfig.from_dict(SECTIONS))


def test_config_survives_a_round_trip_and_attention_is_optional():
    config = SyncNetConfig.from_dict(SECTIONS)
    assert SyncNetConfig.from_dict(config.to_dict()) == config
    bare = copy.deepcopy(SECTIONS)
    del bare["visual_encoder"]["attn_blocks"]
    assert SyncNetConfig.from_dict(bare).visual_encoder.attn_blocks == [0] * 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("downsample_factors", [2, 2], "one entry per block"),
        ("block_out_channels", [32, 64, 64, 70], "multiples of 32"),
    ],
)
def test_contradicting_config_is_refused(key, value, message):
    sections = copy.deepcopy(SECTIONS)
    sections["visual_encoder"][key] = value
    with pytest.raises(ValueError, match=message):
        SyncNetConfig.from_dict(sections)


def test_embeddings_are_unit_length_and_not_negative(net):
    vision, audio = net(torch.randn(2, 12, *IMAGE_SIZE), torch.randn(2, 1, *MEL_SIZE))
    assert vision.shape == audio.shape == (2, 256)
    for embedding in (vision, audio):
        assert embedding.min() >= 0
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_geometry_table_is_the_networks_own(net):
    table = check_geometry(net.config, IMAGE_SIZE, MEL_SIZE)
    for name, size in (("visual_encoder", IMAGE_SIZE), ("audio_encoder", MEL_SIZE)):
        encoder, x = getattr(net, name), torch.zeros(1, table[name][0].channels, *size)
        assert tuple(x.shape[1:]) == (table[name][0].channels, *size)
        x = encoder.conv_in(x)
        shapes = []
        for block in encoder.down_blocks:
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
        want = [(layer.channels, layer.height, layer.width) for layer in table[name][1:]]
        assert [shape for i, shape in enumerate(shapes) if i != 3] == want  # block 3 is the attention


@pytest.mark.parametrize("image_size", [(16, 32), (8, 64), (1, 1)])
def test_wrong_input_size_is_refused_with_the_table(net, image_size):
    with pytest.raises(ValueError, match="block 3, factor 2x2 +256 x"):
        check_geometry(net.config, image_size, MEL_SIZE)


def test_different_embedding_widths_are_refused():
    sections = copy.deepcopy(SECTIONS)
    sections["visual_encoder"]["block_out_channels"][-1] = 96
    with pytest.raises(ValueError, match="same D"):
        check_geometry(SyncNetConfig.from_dict(sections), IMAGE_SIZE, MEL_SIZE)


def test_embedding_that_the_last_norm_would_empty_is_refused():
    sections = copy.deepcopy(SECTIONS)
    for encoder in sections.values():
        encoder["block_out_channels"][-1] = 64
    with pytest.raises(ValueError, match="at least 128 wide"):
        check_geometry(SyncNetConfig.from_dict(sections), IMAGE_SIZE, MEL_SIZE)


def test_frames_are_packed_frame_major():
    clip = torch.arange(2 * 3 * 4 * 6 * 5.0).reshape(2, 3, 4, 6, 5)
    packed = pack_frames(clip, lower_half=True)
    assert packed.shape == (2, 12, 3, 5)
    assert torch.equal(packed[:, 2 * 3 + 1], clip[:, 1, 2, 3:])
    assert pack_frames(clip, lower_half=False).shape == (2, 12, 6, 5)


def test_network_learns_which_pairs_belong_together(net):
    image, mel = torch.randn(4, 12, *IMAGE_SIZE), torch.randn(4, 1, *MEL_SIZE)
    image, mel = torch.cat([image, image]), torch.cat([mel, mel.roll(1, dims=0)])
    labels = torch.tensor([1.0] * 4 + [0.0] * 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        loss = sync_loss(*net(image, mel), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_loss_is_finite_outside_the_range_of_a_probability():
    vision = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.3, 0.1]], requires_grad=True)
    audio = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.9, 0.3]])
    assert sync_similarity(vision, audio).tolist() == pytest.approx([0.0, 0.0, 1.0])
    loss = sync_loss(vision, audio)
    assert loss.tolist() == pytest.approx([100.0, 100.0, 0.0], abs=1e-6)
    loss.mean().backward()
    assert vision.grad is not None and vision.grad.isfinite().all()


def test_loss_works_under_autocast(net):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vision, audio = net(torch.randn(1, 12, *IMAGE_SIZE), torch.randn(1, 1, *MEL_SIZE))
        assert sync_loss(vision, audio).dtype == torch.float32


def test_wav2lip_layers_reduce_to_one_position():
    with torch.device("meta"):
        vision, audio = Wav2LipSyncNet().eval()(torch.zeros(2, 15, 128, 256), torch.zeros(2, 1, 80, 16))
    assert vision.shape == audio.shape == (2, 1024)
