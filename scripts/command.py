"""How every command ends: its exit status, and one sentence on stderr for an error that its user can mend. Types of arguments."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from latentsync.places import IS_INSTALLED, find_configuration
from latentsync.system import print_anything

OK, WRONG, STOPPED = 0, 2, 130  # exit statuses; 1 is left to commands whose work is done but has failures

# Imported packages that only some commands need -> the extra of pyproject.toml that installs them
EXTRA_OF = {
    **dict.fromkeys(("fastapi", "gradio", "pydantic", "python_multipart", "starlette"), "web"),
    **dict.fromkeys(
        ("accelerate", "diffusers", "lpips", "matplotlib", "tensorboard", "torchvision", "whisper"), "train"
    ),
    **dict.fromkeys(("fsspec", "pandas", "pyarrow", "ray", "scenedetect"), "data"),
    "espeakng_loader": "avatars",
    **dict.fromkeys(("c2pa", "cryptography"), "provenance"),
}


def run_command(name: str, work: Callable[[], int | None], if_stopped: str = "") -> int:
    """Do the `work` of command `name` and return its exit status: the work's own, or 0 where it returns None.

    A ValueError, an OSError or a package of an extra that is not installed becomes one sentence on stderr and status 2, Ctrl+C
    status 130, or what the interruption itself has as `exit_status`; `if_stopped` completes the sentence for these. Other
    exceptions are bugs and keep their traceback.
    """
    print_anything((sys.stdout, sys.stderr))
    try:
        return work() or OK
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return WRONG
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        print(f"{name}: the package {package} is not installed: run `{install(EXTRA_OF[package])}`.", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt as stop:
        print(f"{name}: {str(stop) or 'stopped'}{if_stopped and f'; {if_stopped}'}.", file=sys.stderr)
        return getattr(stop, "exit_status", STOPPED)


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'latentsync[{extra}]'" if IS_INSTALLED else f"./setup_env.sh {extra}"


def yaml_file(text: str) -> Path:
    """The type of arguments that name a configuration file: a missing one is an error before anything is imported to read it."""
    try:
        return find_configuration(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_fresh(parser: argparse.ArgumentParser) -> None:
    """Add the option of a training to start anew in a folder that has a run."""
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start from step 0; an earlier run in data.train_output_dir is moved to a folder beside it, with the time in its name",
    )
