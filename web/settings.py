"""Settings of the app: presets, limits, and the folder of its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latentsync.inference.settings import PRESETS as ENGINE_PRESETS
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO, HOME

DEFAULT_FOLDER = HOME / "runs" / "web"
PREVIEW_SEC = 3.0
MAX_PEOPLE = 4  # with audio of their own, on the page
BODY_BYTES = 1_000_000  # of a request that is no upload
MAX_STEPS, MAX_GUIDANCE = 50, 3.0

PRESETS = MappingProxyType(dict(reversed(list(ENGINE_PRESETS.items()))))  # the fastest first
DEFAULT_PRESET = "balanced"


@dataclass(frozen=True)
class Example:
    """An example video and audio on the page."""

    title: str
    video: Path
    audio: Path


EXAMPLES = (Example("Drawn speaker", DEMO_VIDEO, DEMO_AUDIO),)


@dataclass(frozen=True)
class Limits:
    """Limits of one app."""

    file_bytes: int = 2_000_000_000
    length_sec: float = 1800.0  # of a result
    video_sec: float = 7200.0
    frame_pixels: int = 8192 * 4320
    unfinished_jobs: int = 20  # waiting and running, of all users
    unfinished_jobs_each: int = 10  # of one session or user
    unfinished_jobs_address: int = (
        10  # of one address, without a login: sessions can be made at will; of one API client
    )
    stored_bytes: int = 50_000_000_000  # uploads and results of all users
    stored_bytes_each: int = 10_000_000_000  # uploads of one address, or of one API client
    requests_per_minute: int = 600  # of one API client
    keep_sec: float = 24 * 3600.0  # how long results and uploads are kept


@dataclass(frozen=True)
class ApiSettings:
    """Settings of the job API."""

    tokens: Mapping[str, str] = field(
        default_factory=dict
    )  # client's name -> token; none: one token for this machine's user
    input_folders: tuple[Path, ...] = ()  # whose files jobs may use
    webhook_hosts: tuple[str, ...] = ()  # NAME or NAME:PORT that webhooks may call
    private_webhooks: bool = False  # they may call private addresses too, and without encryption


@dataclass(frozen=True)
class AppSettings:
    """Settings of `gradio_app.py`."""

    folder: Path = DEFAULT_FOLDER
    limits: Limits = field(default_factory=Limits)
    unload_sec: float | None = None  # free the models after this idle time
    host: str = "127.0.0.1"
    port: int | None = 7860  # None: any that is free
    share: bool = False
    login: tuple[str, str] | None = None  # user, password
    allowed_hosts: tuple[str, ...] = ()  # names under which the app answers, besides this machine's
    api: ApiSettings = field(default_factory=ApiSettings)

    def launch_arguments(self) -> dict[str, Any]:
        """Arguments for `gradio.Blocks.launch`."""
        return {
            "server_name": self.host,
            "server_port": self.port,
            "share": self.share,
            "auth": self.login,
            "max_file_size": self.limits.file_bytes,
        }
