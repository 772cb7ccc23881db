"""A program that abandons readers of video files: python -m tests.support.leave_early WAY COUNT MESSAGES FILE...

It prints `reading` when frames arrive and `left` when all readers are abandoned. If MESSAGES is `python`, libav's messages go to
Python's logging, as after a call of `av.logging.set_level` by any library.
"""

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import av

from latentsync.media.container import limit_threads
from latentsync.media.index.frame_index import frame_index
from latentsync.media.video.read import VideoFrame, read_frames, stored_pictures

THREADS = 4  # per decoder, even on a machine with fewer cores
READERS = 4  # concurrent readers of `leave_in_threads`
kept: list[Iterator[VideoFrame]] = []  # readers that stay open until the interpreter exits


class ConsumerError(Exception):
    """An error in the code that uses the frames."""


def leave_by_break(path: str, frames: int) -> None:
    for place, _ in enumerate(read_frames(path)):
        if place == frames:
            break


def leave_by_error(path: str, frames: int) -> None:
    try:
        for place, _ in enumerate(read_frames(path, start_frame=frames)):
            if place == frames:
                raise ConsumerError
    except ConsumerError:
        pass


def leave_to_the_collector(path: str, frames: int) -> None:
    """Abandon a reader in a reference cycle, which only the garbage collector closes."""
    holder: dict[str, object] = {"reader": read_frames(path)}
    holder["self"] = holder
    for _ in range(frames + 1):
        next(holder["reader"])  # type: ignore[call-overload]
    del holder
    gc.collect()


def leave_in_threads(path: str, frames: int) -> None:
    threads = [threading.Thread(target=leave_by_break, args=(path, frames + more)) for more in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def leave_open(path: str, frames: int) -> None:
    """Leave one reader open and another one in use by a daemon thread when the interpreter exits."""
    kept.append(read_frames(path))
    for _ in range(frames + 1):
        next(kept[-1])
    threading.Thread(target=decode_for_ever, args=(path,), daemon=True).start()


def decode_for_ever(path: str) -> None:
    """Decode without conversion to RGB: OpenCV, which converts, crashes in a thread at interpreter exit."""
    index = frame_index(path)
    while True:
        for _ in stored_pictures(path, index, 0, index.frame_count):
            pass


def read_for_ever(path: str, frames: int) -> None:
    while True:
        for place, _ in enumerate(read_frames(path)):
            if place == 0:
                print("reading", flush=True)


WAYS: dict[str, Callable[[str, int], None]] = {
    "break": leave_by_break,
    "error": leave_by_error,
    "collector": leave_to_the_collector,
    "threads": leave_in_threads,
    "open at exit": leave_open,
    "interrupt": read_for_ever,
}


def main() -> int:
    way, count, messages, *paths = sys.argv[1:]
    if messages == "python":
        logging.getLogger("libav").addHandler(logging.NullHandler())
        logging.getLogger("libav").setLevel(1)
        av.logging.set_level(av.logging.DEBUG)
    limit_threads(THREADS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that Ctrl-C is ignored
    try:
        for number in range(int(count)):
            WAYS[way](paths[number % len(paths)], number % 5)
    except KeyboardInterrupt:
        pass
    print("left", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
