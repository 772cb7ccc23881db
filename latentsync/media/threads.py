"""How many cores decoding and converting pictures take: all, or as many as a process was told that shares its machine."""

from typing import Any

_ALL = 0  # libav's word for them
_limit = _ALL


def limit_threads(count: int) -> None:
    """Let all reading of this process take `count` cores from now on; the pictures are the same."""
    global _limit
    _limit = count


def decoder_threads() -> int:
    """For a decoder's `thread_count`."""
    return _limit


def converter_threads() -> dict[str, Any]:
    """For `VideoFrame.reformat`, which takes all cores by itself (older versions of PyAV: one)."""
    return {} if _limit == _ALL else {"threads": _limit}
