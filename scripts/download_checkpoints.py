"""Fetch the public checkpoints and show what is there: python -m scripts.download_checkpoints [inference|training|eval|all]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from latentsync.weights.hub import FileState, fetch, look
from latentsync.weights.table import (
    CHECKPOINTS,
    DEFAULT_RELEASE,
    DEFAULT_SET,
    RELEASES,
    SETS,
    CheckpointError,
    PublicFile,
    UnreachableError,
    files_of,
)

STYLE_OF_STATE = {"there": "green", "missing": "yellow", "damaged": "red", "other release": "yellow"}
COLUMNS = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
WIDTH_OF_FILES = 170  # characters, where no terminal limits a line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.download_checkpoints", description=__doc__)
    add = parser.add_argument
    add("set", nargs="?", choices=SETS, default=DEFAULT_SET, help="what they are for (default: %(default)s)")
    add("--only", nargs="+", metavar="PATH", help="these files alone, by their paths under checkpoints/, of any set")
    add("--check", action="store_true", help="only look; exit status 1 if something of the set is missing")
    add("--release", choices=RELEASES, default=DEFAULT_RELEASE, help="of the official models (default: %(default)s)")
    add("--mirror", type=Path, metavar="DIR", help="a folder to take files from before the network is asked")
    add("--folder", type=Path, default=CHECKPOINTS, metavar="DIR", help="where they go (default: checkpoints/)")
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> list[PublicFile]:
    """The files that are asked for; ValueError where `--only` names one that is not in the table."""
    if not args.only:
        return files_of(args.set, args.release)
    known = {file.path: file for file in files_of("all", args.release)}
    unknown = [path for path in args.only if path not in known]
    if unknown:
        raise ValueError(f"There is no {unknown[0]} in the table of checkpoints: choose {', '.join(known)}.")
    return [known[path] for path in dict.fromkeys(args.only)]


def size_text(size_mb: float | None) -> str:
    """A size for people; '?' where it is not known beforehand."""
    if size_mb is None:
        return "?"
    if size_mb >= 1000:
        return f"{size_mb / 1000:.2f} GB"
    return f"{size_mb:.3g} MB" if size_mb >= 1 else f"{size_mb * 1000:.0f} kB"


def show(console: Console, states: Sequence[FileState], title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("file", no_wrap=True)
    for name in ("for", "size", "state", "licence", "from"):
        table.add_column(name, overflow="fold", justify="right" if name == "size" else "left")
    for state in states:
        file, style = state.file, STYLE_OF_STATE[state.state]
        shown = f"[{style}]{state.state}[/]"
        table.add_row(file.path, file.role, size_text(file.size_mb), shown, file.licence, file.origin)
    console.print(table)
    for state in states:
        if state.state == "damaged":
            console.print(state.detail, markup=False, soft_wrap=True)


def fetch_all(
    console: Console, files: Sequence[PublicFile], folder: Path, mirror: Path | None
) -> tuple[bool, UnreachableError | None]:
    """Fetch each; a file that cannot be had is named and the others go on, but no server is asked that was lost.

    Returns whether all came, and the last server's failure to answer.
    """
    came, lost, silence = 0, set(), None
    with Progress(TextColumn("{task.description}"), *COLUMNS, console=console) as progress:
        for file in files:
            server = "hub" if file.repo else file.origin
            if server in lost and mirror is None:
                continue
            task = progress.add_task(file.path, total=None)

            def report(done: int, size: int | None, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=size)

            try:
                fetch(file, folder, mirror, report)
                size = (folder / file.path).stat().st_size
                progress.update(task, completed=size, total=size)
                came += 1
            except UnreachableError as error:
                silence = error
                lost.add(server)
            except CheckpointError as error:
                progress.update(task, visible=False)
                console.print(str(error), markup=False, soft_wrap=True)
    return came == len(files), silence


def no_network(error: UnreachableError, folder: Path, set_name: str) -> str:
    return (
        f"{error}: run the same command again when there is a network, set HF_ENDPOINT to a mirror of the hub, or copy the"
        f" files of the set '{set_name}' from another machine into {folder} (or name their folder with --mirror)."
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    try:
        files = chosen(args)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    states = [look(file, args.folder) for file in files]
    show(console, states, f"Checkpoints for {args.set}, release {args.release}, in {args.folder}")
    wanted = [state.file for state in states if state.state != "there"]
    if args.check or not wanted:
        return int(bool(wanted))
    try:
        is_complete, silence = fetch_all(console, wanted, args.folder, args.mirror)
    except OSError as error:
        print(f"{args.folder} cannot be written ({error}): check its permissions and its disk.", file=sys.stderr)
        return 1
    after = [look(file, args.folder) for file in files]
    if after != states:
        show(console, after, "Now")
    if silence:
        print(no_network(silence, args.folder, args.set), file=sys.stderr)
        return 2
    return int(not is_complete)


if __name__ == "__main__":
    sys.exit(main())
