"""Decoded faces of clips at the network's resolution, cached in memory up to a limit.

Tensor legend: f frames, h w 3 pixels, r resolution.
"""

import torch
from torch import Tensor

from latentsync.data.clips import TrainingClip
from latentsync.face.pixels import resize_frames


class FrameMemory:
    """Cache of whole clips' faces at `resolution` px; a clip that does not fit any more is decoded at every access.

    Nothing is evicted, so the hit rate stays the same. With `lower_half` only rows from resolution // 2 on are kept and returned.
    """

    def __init__(self, resolution: int, limit_bytes: int, lower_half: bool = False):
        self.resolution, self.limit_bytes = resolution, limit_bytes
        self.first_row = resolution // 2 if lower_half else 0
        self.kept: dict[str, Tensor] = {}
        self.used_bytes = 0

    def frames(self, clip: TrainingClip, start_frame: int, stop_frame: int) -> Tensor:
        """Frames start_frame ... stop_frame - 1, uint8 [f, r or r / 2, r, 3]; MediaError if they cannot be read."""
        whole = self.kept.get(clip.key)
        if whole is None and self._size(clip) <= self.limit_bytes - self.used_bytes:
            whole = self.kept[clip.key] = self._read(clip, 0, clip.frames)
            self.used_bytes += self._size(clip)
        return self._read(clip, start_frame, stop_frame) if whole is None else whole[start_frame:stop_frame]

    def _size(self, clip: TrainingClip) -> int:
        return clip.frames * (self.resolution - self.first_row) * self.resolution * 3

    def _read(self, clip: TrainingClip, start_frame: int, stop_frame: int) -> Tensor:
        frames = torch.from_numpy(clip.faces(start_frame, stop_frame))
        return resize_frames(frames, self.resolution)[:, self.first_row :].contiguous()


def random_faces(memory: FrameMemory, clips: list[TrainingClip], count: int, generator: torch.Generator) -> Tensor:
    """`count` faces drawn at random from the clips, uint8 [count, r, r, 3]."""
    chosen = torch.randint(len(clips), (count,), generator=generator).tolist()
    shares = torch.rand(count, generator=generator).tolist()
    starts = [int(share * clips[index].frames) for index, share in zip(chosen, shares, strict=True)]
    return torch.cat([memory.frames(clips[i], start, start + 1) for i, start in zip(chosen, starts, strict=True)])
