"""The command `latentsync`, also `python -m latentsync`: a verb, and the arguments of the script that does it.

The scripts are the repository's `scripts/` and `gradio_app.py`, which an installed package carries among its shipped files.
"""

import importlib
import sys
from dataclasses import dataclass

from latentsync import __version__
from latentsync.places import SHIPPED

WRONG = 2  # exit status


@dataclass(frozen=True)
class Verb:
    """Something to do: the module of its script, what it does, and the arguments that come before those of the user."""

    module: str
    purpose: str
    arguments: tuple[str, ...] = ()


VERBS = {
    "demo": Verb("scripts.inference", "lip-sync the shipped video with the shipped demo models", ("--demo",)),
    "run": Verb("scripts.inference", "lip-sync a video to another audio track"),
    "check": Verb(
        "scripts.inference", "only find the faces, and report which frames would be edited", ("--preflight",)
    ),
    "batch": Verb("scripts.inference", "run the jobs of a .csv or .jsonl file: latentsync batch LIST", ("--jobs",)),
    "download": Verb("scripts.download_checkpoints", "download the public checkpoints, or show their state"),
    "provenance": Verb("scripts.provenance", "say what a video file says about its origin"),
    "doctor": Verb("scripts.doctor", "show packages, devices, encoders and weights, and run a short part of the demo"),
    "serve": Verb("gradio_app", "the app in the browser; needs the extra `web`"),
}


def usage() -> str:
    """What `latentsync --help` prints."""
    listed = "\n".join(f"  {word:12}{verb.purpose}" for word, verb in VERBS.items())
    return f"usage: latentsync VERB ...\n\n{listed}\n\nOptions: latentsync VERB --help. This is version {__version__}."


def main(argv: list[str] | None = None) -> int:
    """Run the command of a verb; returns its exit status."""
    word, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if word in ("-h", "--help", "--version"):
        print(__version__ if word == "--version" else usage())
        return 0
    verb = VERBS.get(word)
    if verb is None:
        print(f"latentsync: there is no verb {word!r}: choose {', '.join(VERBS)}.", file=sys.stderr)
        return WRONG
    sys.path.insert(0, str(SHIPPED))  # where `scripts` and `web` are; the package installs no such names beside others
    arguments = rest if rest[:1] in (["-h"], ["--help"]) else [*verb.arguments, *rest]
    status: int = importlib.import_module(verb.module).main(arguments, f"latentsync {word}")
    return status


if __name__ == "__main__":
    sys.exit(main())
