"""Avatars: drawn talking heads with exactly known lips, for training the demo models and for tests."""

from typing import Literal, get_args

OccluderKind = Literal[
    "hand", "microphone", "cup", "hair"
]  # what may cover the mouth, see `latentsync.avatar.occluders`
OCCLUDERS: tuple[OccluderKind, ...] = get_args(OccluderKind)
