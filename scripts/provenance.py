"""Say what video files say about their origin: the mark of generated lips, and the C2PA manifest with whether it is valid.

The exit status is 1 if a file says nothing, a manifest is not valid, or the source is another one.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from latentsync.files import file_hash
from latentsync.media.mark import Mark, read_mark
from latentsync.media.signing import Manifest, read_manifest
from scripts.command import EXTRA_OF, install, run_command

SAYS_NOTHING = 1  # exit status, also of a manifest that is not valid
INVALID = "Invalid"  # state of a manifest
STATES = {
    "Trusted": "valid, by a trusted signer",
    "Valid": "valid, by a signer who is on no list of trust that was given",
    INVALID: "NOT VALID",
}


def main(argv: list[str] | None = None, prog: str = "python -m scripts.provenance") -> int:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a video file")
    parser.add_argument("--source", type=Path, help="whether this is the file that the mark names as source")
    parser.add_argument("--trust", type=Path, metavar="FILE.pem", help="certificates of authorities that are trusted")
    args = parser.parse_args(argv)
    return run_command("provenance", lambda: max(show(file, args.source, args.trust) for file in args.files))


def show(file: Path, source: Path | None, trusted: Path | None) -> int:
    """Print what a file says; returns the exit status."""
    mark, (manifest, note) = read_mark(file), manifest_of(file, trusted)
    is_other = mark is not None and source is not None and file_hash(source) != mark.source_sha256
    print(f"{file}:")
    for line in [*mark_lines(mark), *manifest_lines(manifest, note)]:
        print(f"  {line}")
    if mark is not None and source is not None:
        print(f"  {source} is {'another file than the source' if is_other else 'the source'}")
    is_wrong = is_other or (manifest is not None and manifest.state == INVALID)
    return SAYS_NOTHING if is_wrong or (mark is None and manifest is None) else 0


def manifest_of(file: Path, trusted: Path | None) -> tuple[Manifest | None, str]:
    """The manifest of a file, and what is said if there is none or it cannot be read here."""
    try:
        return read_manifest(file, trusted), "none"
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        return None, f"not read, because {error.name} is not installed: run `{install(EXTRA_OF[error.name])}`"


def mark_lines(mark: Mark | None) -> Iterator[str]:
    if mark is None:
        yield "mark: none"
        return
    yield f"mark: {mark.digital_source_type}"
    yield f"  by {mark.software or 'unnamed software'}"
    yield f"  SHA-256 of the source: {mark.source_sha256 or 'not named'}"


def manifest_lines(manifest: Manifest | None, note: str) -> Iterator[str]:
    if manifest is None:
        yield f"C2PA manifest: {note}"
        return
    yield f"C2PA manifest: {STATES.get(manifest.state, manifest.state)}"
    yield from (f"  {problem}" for problem in manifest.problems)
    yield f"  signed by {manifest.signer}"
    yield f"  made with {manifest.generator}: {', '.join(manifest.actions)}"
    yield from (f"  {kind}" for kind in manifest.digital_source_types)
    yield f"  from {', '.join(manifest.ingredients) or 'no named source'}"


if __name__ == "__main__":
    sys.exit(main())
