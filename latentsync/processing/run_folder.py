"""The folders of one run: the input, which is never changed, the output with its manifests, and one for unfinished files."""

import os
import socket
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from latentsync.data.storage import Folder

MANIFESTS = "manifests"
EXAMPLES = f"{MANIFESTS}/examples"
DRY_RUN = "dry_run"
VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"),
    *(".mts", ".m2ts", ".mxf", ".flv", ".wmv", ".asf", ".3gp", ".ogv", ".dv"),
)
STAGING = ".staging"  # in the manifests, where the output is local
LOCAL_STAGING = "latentsync-staging-"  # in this machine's temporary folder, where the output is remote


@dataclass(frozen=True)
class RunFolder:
    """The folders of a run and its limits for retries; every worker gets a copy."""

    input: Folder
    output: Folder
    run_id: str
    keep_stages: bool = False  # keep every stage's files, not only the last stage's
    dry_run: bool = False  # measure only: no clips are kept
    attempts: int = 2  # for a clip on which a step raises an error
    max_lost_workers: int = 4  # number of workers that die on a clip before it is recorded as failed

    @property
    def manifests(self) -> Folder:
        return self.output.under(MANIFESTS)

    @property
    def staging_root(self) -> Path:
        """This machine's folder for unfinished files: on the output's disk if that is local, so that publishing is a rename."""
        if self.output.is_local:
            return Path(self.output.root, MANIFESTS, STAGING)
        return Path(tempfile.gettempdir(), f"{LOCAL_STAGING}{self.run_id}")

    def new_staging(self) -> Path:
        """A folder for one task, named after the process that owns it."""
        folder = self.staging_root / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return folder

    def sources(self) -> dict[str, int]:
        """Size in bytes of every video in the input folder and below, by relative path."""
        return {name: size for name, size in self.input.files().items() if is_video(name)}

    def source_address(self, relative: str) -> str:
        return f"{self.input.address}/{relative}"


def is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def make_run_folder(
    input_dir: str | Path,
    output_dir: str | Path | None = None,
    keep_stages: bool = False,
    dry_run: bool = False,
) -> RunFolder:
    """The folders of a run; without `output_dir` the output is the folder that contains the input folder.

    Raises ValueError if the input folder is missing or holds no video, or if the output would be inside it.
    """
    source = Folder(input_dir)
    if not source.is_folder():
        raise ValueError(f"The input folder {input_dir} does not exist or is a file: give a folder with videos.")
    output = Folder(output_dir) if output_dir else source.beside()
    if source.contains(output):
        raise ValueError(f"The output {output.address} is in the input folder, which is never changed: choose another.")
    if dry_run:
        output = output.under(DRY_RUN)
    run_folder = RunFolder(source, output, uuid.uuid4().hex[:12], keep_stages=keep_stages, dry_run=dry_run)
    if not run_folder.sources():
        raise ValueError(f"No videos in {input_dir} or below: it needs files such as .mp4, .mov or .mkv.")
    return run_folder
