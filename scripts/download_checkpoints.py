"""Download the public checkpoints and show their state."""

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

from latentsync.weights.hub import FileState, fetch, file_state
from latentsync.weights.table import (
    CHECKPOINTS,
    DEFAULT_RELEASE,
    DEFAULT_SET,
    FETCH,
    RELEASES,
    SETS,
    CheckpointError,
    PublicFile,
    UnreachableError,
    files_of,
)

STYLE_OF_STATE = {"there": "green", "missing": "yellow", "damaged": "red", "other release": "yellow"}
COLUMNS = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
WIDTH_OF_FILES = 170  # characters of a line if the output is not a terminal


def parse(argv: Sequence[str] | None, prog: str = FETCH) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add = parser.add_argument
    add("set", nargs="?", choices=SETS, default=DEFAULT_SET, help="purpose (default: %(default)s)")
    add("--only", nargs="+", metavar="PATH", help="only these files, by their paths under checkpoints/, from any set")
    add("--check", action="store_true", help="show the state without downloading; exit status 1 if a file is missing")
    add(
        "--release",
        choices=RELEASES,
        default=DEFAULT_RELEASE,
        help="release of the official models (default: %(default)s)",
    )
    add("--mirror", type=Path, metavar="DIR", help="a folder from which files are copied if it has them")
    add("--folder", type=Path, default=CHECKPOINTS, metavar="DIR", help="destination (default: %(default)s)")
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> list[PublicFile]:
    """The selected files; ValueError if `--only` names one that is not in the table."""
    if not args.only:
        return files_of(args.set, args.release)
    known = {file.path: file for file in files_of("all", args.release)}
    unknown = [path for path in args.only if path not in known]
    if unknown:
        raise ValueError(f"There is no public checkpoint {unknown[0]}: choose {', '.join(known)}.")
    return [known[path] for path in dict.fromkeys(args.only)]


def size_text(size_mb: float | None) -> str:
    """A size as text; '?' if it is unknown."""
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
    """Download each file; errors are printed and the other files continue, except from servers that cannot be reached.

    Returns whether all files were downloaded, and the error of the last server that could not be reached.
    """
    complete, unreachable, last_error = 0, set(), None
    with Progress(TextColumn("{task.description}"), *COLUMNS, console=console) as progress:
        for file in files:
            server = "hub" if file.repo else file.origin
            if server in unreachable and mirror is None:
                continue
            task = progress.add_task(file.path, total=None)

            def report(done: int, size: int | None, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=size)

            try:
                fetch(file, folder, mirror, report)
                size = (folder / file.path).stat().st_size
                progress.update(task, completed=size, total=size)
                complete += 1
            except UnreachableError as error:
                last_error = error
                unreachable.add(server)
            except CheckpointError as error:
                progress.update(task, visible=False)
                console.print(str(error), markup=False, soft_wrap=True)
    return complete == len(files), last_error


def no_network(error: UnreachableError, folder: Path, set_name: str) -> str:
    servers = "PIP_INDEX_URL to another index" if set_name == "faces" else "HF_ENDPOINT to a mirror of the hub"
    return (
        f"{error}: run the same command again with a network connection, set {servers}, or copy the"
        f" files of the set '{set_name}' from another machine into {folder} (or give their folder with --mirror)."
    )


def main(argv: Sequence[str] | None = None, prog: str = FETCH) -> int:
    args = parse(argv, prog)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    try:
        files = chosen(args)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    states = [file_state(file, args.folder) for file in files]
    show(console, states, f"Checkpoints for {args.set}, release {args.release}, in {args.folder}")
    wanted = [state.file for state in states if state.state != "there"]
    if args.check or not wanted:
        return int(bool(wanted))
    try:
        is_complete, network_error = fetch_all(console, wanted, args.folder, args.mirror)
    except OSError as error:
        print(f"{args.folder} cannot be written ({error}): check its permissions and its disk.", file=sys.stderr)
        return 1
    after = [file_state(file, args.folder) for file in files]
    if after != states:
        show(console, after, "Now")
    if network_error:
        print(no_network(network_error, args.folder, args.set), file=sys.stderr)
        return 2
    return int(not is_complete)


if __name__ == "__main__":
    sys.exit(main())
