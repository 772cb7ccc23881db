"""The audio-conditioned 3D U-Net: predicts the noise in the latents of a clip of face images.

The 2D U-Net of latent diffusion (Rombach et al. 2022) with audio cross-attention in every spatial transformer and
motion modules over frames (Guo et al. 2023, "AnimateDiff"), as in LatentSync (Li et al. 2024).

Legend: b clips, f frames, c channels, h w latent height and width, s audio tokens, d width of an audio token.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latentsync.models.attention import AudioKV, ClipGroupNorm, ProjectedOnUse, TransformerBlock
from latentsync.models.unet.blocks import Conditioning, DownLevel, Level, LevelPlan, MiddleLevel, UpLevel
from latentsync.models.unet.config import DOWN_ATTENTION, UP_ATTENTION, UNetConfig
from latentsync.models.unet.motion import MotionModuleConfig

__all__ = [
    "DeepCache",
    "MotionModuleConfig",
    "UNet3DConditionModel",
    "UNetConfig",
    "initialise_for_training",
    "time_features",
]
DEEP_LAYERS, LAST_LAYER = slice(-1), slice(-1, None)  # of the outermost up level


def time_features(timesteps: Tensor, width: int, flip_sin_to_cos: bool = True, freq_shift: float = 0) -> Tensor:
    """Sinusoidal features of diffusion steps (Vaswani et al. 2017): `timesteps` b -> b `width`, float32, `width` even.

    The sine half comes first, or the cosine half with `flip_sin_to_cos`.
    """
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angle = timesteps.float()[:, None] * torch.exp(index * (-math.log(10_000.0) / (half - freq_shift)))
    parts = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    return torch.cat(parts, dim=-1)


class TimeEmbedding(nn.Module):
    """Two linear layers with a SiLU between them: time features b in_width -> embedding b width."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class DeepCache:
    """Deep features of a U-Net, cached from one sampling step to the next (Ma et al. 2024, "DeepCache"; branch 0).

    The first of every `interval` steps runs the whole network, the others only `conv_in`, the last layer of the outermost
    level and `conv_out`; 1 runs the whole network in every step. Use a new cache for every sampling call, because the features
    are those of its clips. When the batch size changes between two steps (guidance begins or ends), the next step runs the whole
    network, and the interval is counted from there. Raises ValueError for an interval below 1.
    """

    def __init__(self, interval: int):
        if interval < 1:
            raise ValueError(f"the DeepCache interval is {interval}, but must be at least 1.")
        self.interval = interval
        self._features: Tensor | None = None  # (b f) c h w
        self._steps_left = 0  # that may still use the features

    def features(self, count: int, compute: Callable[[], Tensor]) -> Tensor:
        """Deep features of this step's `count` (b f) feature maps: the cached ones, or new ones when they are due."""
        if self._features is not None and self._steps_left and len(self._features) == count:
            self._steps_left -= 1
        else:
            self._features = None  # frees the memory first
            self._features, self._steps_left = compute(), self.interval - 1
        return self._features


class UNet3DConditionModel(nn.Module):
    """Predicts noise from noisy latents, conditioning channels, the diffusion step and the audio.

    GroupNorm statistics of the residual blocks are shared by all frames of a clip, so the result depends on which frames form a
    clip. Input and output convolution and the motion modules' last layer are initialised to zero, as in
    the public model, which continues from a trained image model; see `initialise_for_training` for training from scratch.
    """

    has_compiled_blocks = False  # see `latentsync.models.unet.compiled`

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers_per_block
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0])

        skip_widths = [widths[0]]  # of the skip connections, as in `forward`
        self.down_blocks = nn.ModuleList()
        for index, width in enumerate(widths):
            is_last = index == len(widths) - 1
            in_channels = [skip_widths[-1]] + [width] * (layers - 1)
            self.down_blocks.append(DownLevel(self._down_plan(index), in_channels, is_last))
            skip_widths += [width] * (layers if is_last else layers + 1)

        self.mid_block = MiddleLevel(self._plan(len(widths) - 1, True, config.motion_module_mid_block))

        below = widths[-1]
        self.up_blocks = nn.ModuleList()
        for index, width in reversed(list(enumerate(widths))):
            in_channels = [carried + skip_widths.pop() for carried in [below] + [width] * layers]
            self.up_blocks.append(UpLevel(self._up_plan(index), in_channels, is_last=index == 0))
            below = width

        self.conv_norm_out = ClipGroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        for conv in (self.conv_in, self.conv_out):
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)

    def _plan(self, index: int, has_attention: bool, has_motion: bool) -> LevelPlan:
        config = self.config
        return LevelPlan(
            channels=config.block_out_channels[index],
            time_width=4 * config.block_out_channels[0],
            norm_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            heads=config.attention_head_dim,
            audio_width=config.cross_attention_dim if config.add_audio_layer else None,
            has_attention=has_attention,
            motion=config.motion_module_kwargs if config.use_motion_module and has_motion else None,
        )

    def _down_plan(self, index: int) -> LevelPlan:
        has_motion = 2**index in self.config.motion_module_resolutions and not self.config.motion_module_decoder_only
        return self._plan(index, self.config.down_block_types[index] == DOWN_ATTENTION, has_motion)

    def _up_plan(self, index: int) -> LevelPlan:
        has_attention = self.config.up_block_types[-1 - index] == UP_ATTENTION  # up_block_types start at the bottom
        return self._plan(index, has_attention, 2**index in self.config.motion_module_resolutions)

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Trade computation for memory in training: keep only each layer's input for the backward pass."""
        for module in self.modules():
            if isinstance(module, Level):
                module.gradient_checkpointing = enabled

    def project_kv(self, audio: Tensor) -> AudioKV:
        """Keys and values of audio windows b f s d for every cross-attention; ValueError for windows of another width d."""
        clips, frames, _, width = audio.shape
        if self.config.add_audio_layer and width != self.config.cross_attention_dim:
            raise ValueError(
                f"The audio is {width} wide, but the U-Net expects {self.config.cross_attention_dim} (cross_attention_dim)."
            )
        tokens = rearrange(audio, "b f s d -> (b f) s d")
        blocks = [module for module in self.modules() if isinstance(module, TransformerBlock) and module.has_audio]
        attentions = [block.attn2 for block in blocks]
        if torch.is_grad_enabled() or hasattr(self.conv_in.weight, "full_tensor"):
            return AudioKV(ProjectedOnUse(tokens, attentions), clips, frames)
        return AudioKV({attention: attention.project_kv(tokens) for attention in attentions}, clips, frames)

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor | int,
        audio: AudioKV,
        cache: DeepCache | None = None,
    ) -> Tensor:
        """Predict the noise of a batch of clips.

        Args:
            sample: b c f h w, the packed input channels (see `latentsync.diffusion.denoisers.unet_input`).
            timesteps: diffusion step of each clip (b), or one for all.
            audio: keys and values of the clips' audio, from `project_kv`.
            cache: deep features of earlier steps of the same sampling call; None runs the whole network.

        Returns:
            b c f h w with `out_channels` channels.

        Raises:
            ValueError: where channels, clips or frames do not fit the configuration or each other.
        """
        clips, channels, frames = sample.shape[:3]
        if channels != self.config.in_channels:
            raise ValueError(f"The U-Net expects {self.config.in_channels} input channels, but got {channels}.")
        self._check_audio(audio, clips, frames)
        cond = Conditioning(self._embed_time(timesteps, clips), audio, frames)
        x = rearrange(sample, "b c f h w -> (b f) c h w").contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x)
        compute = partial(self._deep_features, x, cond)
        deep = compute() if cache is None else cache.features(len(x), compute)
        x = self.up_blocks[-1](deep, cond, [x], LAST_LAYER)
        x = self.conv_out(F.silu(self.conv_norm_out(x, frames)))
        return rearrange(x, "(b f) c h w -> b c f h w", f=frames)

    def _deep_features(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Output of `conv_in` -> input of the last layer of the outermost up level; all (b f) c h w."""
        skips = [x]
        for level in self.down_blocks:
            x = level(x, cond, skips)
        x = self.mid_block(x, cond)
        for level in self.up_blocks[:-1]:
            x = level(x, cond, skips)
        return self.up_blocks[-1](x, cond, skips, DEEP_LAYERS)

    def _embed_time(self, timesteps: Tensor | int, clips: int) -> Tensor:
        weight = self.conv_in.weight
        if isinstance(timesteps, Tensor):
            steps = timesteps.to(weight.device).reshape(-1)
        else:
            steps = torch.full((1,), timesteps, device=weight.device)  # written there, without a copy
        if len(steps) not in (1, clips):
            raise ValueError(f"timesteps has {len(steps)} values for {clips} clips: give one per clip or one for all.")
        config = self.config
        features = time_features(steps, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
        return F.silu(self.time_embedding(features.to(weight.dtype))).expand(clips, -1)

    def _check_audio(self, audio: AudioKV, clips: int, frames: int) -> None:
        if (audio.batch_clips, audio.frames) != (clips, frames):
            raise ValueError(
                f"The audio was projected for {audio.batch_clips} clips of {audio.frames} frames, but there are {clips} of"
                f" {frames}."
            )


def initialise_for_training(unet: UNet3DConditionModel) -> None:
    """Prepare a new network for training from scratch: the input convolution gets random weights.

    The output convolution and the motion modules' last layers stay at zero, so the first prediction is zero noise and
    the motion modules start as the identity.
    """
    unet.conv_in.reset_parameters()
