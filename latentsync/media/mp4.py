"""An MP4 file under construction: packets in, all or nothing.

The file grows as `NAME.partial` and gets its name when it is complete; a failure leaves nothing.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import av
from av.container import OutputContainer
from av.packet import Packet

from latentsync.media.container import MediaError, PathLike, file_url, open_input, reason
from latentsync.media.sound import AudioSource, SoundTrack, sound_track


class Mp4File:
    """An MP4 file under construction: a context manager that removes the file unless `finish` has given it its name."""

    def __init__(self, path: PathLike, audio: AudioSource | None):
        self.path = Path(path)
        self.partial = Path(f"{os.fspath(path)}.partial")
        self.audio = audio
        self.sound: SoundTrack | None = None
        self.opened = ExitStack()

    def __enter__(self) -> "Mp4File":
        if self.path.suffix.lower() != ".mp4":
            raise MediaError(f"cannot write {self.path}: the output is an MP4 file. Give it a name that ends in .mp4.")
        if self.path.is_dir():
            raise MediaError(f"cannot write {self.path}: it is a folder. Give the name of a file.")
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.container = self._open()
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {self.path}: {reason(error)}. Choose another folder.") from error
        return self

    def _open(self) -> OutputContainer:
        options = {"movflags": "+faststart"}  # the index in front, so that a browser plays while it loads
        return self.opened.enter_context(av.open(file_url(self.partial), "w", format="mp4", container_options=options))

    def add_sound(self) -> None:
        """Add the sound's stream; after the video's, which players expect first."""
        if self.audio is not None:
            container = self.opened.enter_context(open_input(self.audio.path))
            self.sound = sound_track(self.audio, container, self.container)

    def mux(self, packets: Iterable[Packet], time_sec: float) -> None:
        """Write video packets, and the sound up to `time_sec` beside them."""
        self.container.mux(list(packets))
        if self.sound is not None:
            self.sound.mux_until(time_sec)

    def finish(self, duration_sec: float) -> None:
        """Complete the file, its sound cut at `duration_sec`, and give it its name."""
        if self.sound is not None:
            self.sound.finish(duration_sec)
        self.opened.close()
        os.replace(self.partial, self.path)

    def __exit__(self, *error: object) -> None:
        with suppress(av.error.FFmpegError, OSError):  # an unfinished file need not close well
            self.opened.close()
        self.partial.unlink(missing_ok=True)
