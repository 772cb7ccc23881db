"""How many cores decoding and converting pictures take: all, or as many as a process was told that shares its machine."""

import os

_ALL = 0  # libav's word for them
CONVERTER_THREADS = 4  # at most: each conversion that stays prepared keeps them
_limit = _ALL


def limit_threads(count: int) -> None:
    """Let all reading of this process take `count` cores from now on; the pictures are the same."""
    global _limit
    _limit = count


def decoder_threads() -> int:
    """For a decoder's `thread_count`."""
    return _limit


def converter_threads() -> int:
    """For a `VideoReformatter`."""
    return min(_limit or os.cpu_count() or 1, CONVERTER_THREADS)
