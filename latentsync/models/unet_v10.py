"""Names of the first public U-Net checkpoint (release 1.0): its audio cross-attention was called differently."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

RENAMED_PARTS = (
    (re.compile(r"\.audio_cross_attn\.norm\."), ".norm2."),
    (re.compile(r"\.audio_cross_attn\.attn\."), ".attn2."),
)


def is_v10(keys: Iterable[str]) -> bool:
    """Whether these are the names of release 1.0."""
    return any(pattern.search(key) for key in keys for pattern, _ in RENAMED_PARTS)


def rename_v10_keys(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Give the entries of a release 1.0 state dict the names of later releases; values are untouched."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, name in RENAMED_PARTS:
            key = pattern.sub(name, key)
        renamed[key] = value
    return renamed
