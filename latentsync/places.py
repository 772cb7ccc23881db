"""Where the project's files are: those that ship with it, and the folder of what its user downloads and makes.

In a checkout both are the repository. An installed package carries the shipped files in `latentsync/shipped/`, laid out as in the
repository (see `setup.py`), and writes nothing there: what is downloaded goes to a folder of the user.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

HOME_VARIABLE = "LATENTSYNC_HOME"
PACKAGE = Path(__file__).resolve().parent
IS_INSTALLED = (PACKAGE / "shipped").is_dir()
SHIPPED = (
    PACKAGE / "shipped" if IS_INSTALLED else PACKAGE.parent
)  # holds assets/, configs/, checkpoints/demo/ and the commands
DEMO_VIDEO, DEMO_AUDIO = SHIPPED / "assets/demo_video.mp4", SHIPPED / "assets/demo_audio.wav"


def user_folder(variables: Mapping[str, str], system: str) -> Path:
    """The usual folder for data of this program: `variables` are those of the environment, `system` is as `sys.platform`."""
    if system == "win32":
        return Path(variables.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "LatentSync"
    if system == "darwin":
        return Path.home() / "Library/Application Support/LatentSync"
    return Path(variables.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "latentsync"


def home_folder(variables: Mapping[str, str], system: str, is_installed: bool) -> Path:
    """The folder of downloaded checkpoints and of the web app's files: LATENTSYNC_HOME, or a checkout itself, or the user's."""
    if chosen := variables.get(HOME_VARIABLE):
        return Path(chosen).expanduser().absolute()
    return user_folder(variables, system) if is_installed else SHIPPED


HOME = home_folder(os.environ, sys.platform, IS_INSTALLED)


def find_configuration(path: Path) -> Path:
    """The path of a configuration file; if it does not exist, that of the shipped file of this name (configs/unet/stage2.yaml).

    Raises ValueError if there is neither.
    """
    found = next((each for each in (path, SHIPPED / path) if each.is_file()), None)
    if found is None:
        raise ValueError(f"Configuration {path} does not exist; the shipped ones are in {SHIPPED / 'configs'}.")
    return found
