"""One piece of work, checked before anything long begins."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentsync.audio.windows import frames_of_audio
from latentsync.media.audio import read_audio
from latentsync.media.container import MediaError, PathLike
from latentsync.media.probe import MediaInfo, probe
from latentsync.timebase import samples_of_frames


@dataclass(frozen=True)
class Job:
    """A readable video, readable sound and a place to write to."""

    video: Path
    audio: Path
    output: Path
    info: MediaInfo  # of the video
    waveform: np.ndarray  # float32 [n] at 16 kHz, at least one frame long

    @property
    def output_frames(self) -> int:
        """Number of output frames at 25 fps: the audio's duration to the nearest frame, at least 1."""
        return max(1, frames_of_audio(len(self.waveform)))


def check_job(video: PathLike, audio: PathLike, output: PathLike) -> Job:
    """Open both inputs and try the output's folder (which is made if need be).

    Raises MediaError if the video or the audio is missing, unreadable or lacks its stream, or the output is one of
    them, no .mp4, a folder, or in a folder that cannot be written to.
    """
    job_paths = Path(video), Path(audio), Path(output)
    check_output(job_paths[2], job_paths[:2])
    info = probe(video)
    waveform = read_audio(audio)
    missing = samples_of_frames(1) - len(waveform)
    return Job(*job_paths, info, np.pad(waveform, (0, max(0, missing))))


def check_output(output: Path, inputs: tuple[Path, ...]) -> None:
    """Raise MediaError unless `output` can become an MP4 file without touching the inputs."""
    for path in inputs:
        if path.resolve() == output.resolve() or (path.exists() and output.exists() and path.samefile(output)):
            raise MediaError(f"cannot write {output}: it is an input of the same run. Give another name.")
    if output.suffix.lower() != ".mp4":
        raise MediaError(f"cannot write {output}: the output is an MP4 file. Give it a name that ends in .mp4.")
    if output.is_dir():
        raise MediaError(f"cannot write {output}: it is a folder. Give the name of a file.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise MediaError(f"cannot write {output}: {error.strerror}. Choose another folder.") from error
