"""Size of the library and imports between its parts: `python -m benchmarks.structure [--root FOLDER]`.

An arrow is a pair of entries of one folder, of which the first imports something inside the second; imports for type checking only
are not counted. A circle is a set of modules, or of entries of one folder, that import each other in a ring.
"""

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.table import report
from scripts.command import run_command

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "latentsync"
ROOMS = ("inference", "training", "processing")
SMALL = 50  # lines; a smaller file often belongs to its only caller

Arrow = tuple[str, str]  # importer, imported: dotted names of modules


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the library; a package's name stands for its `__init__.py`."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the library that a module imports anywhere, functions included, except for type checking alone."""
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            found = target if target in known else target.rpartition(".")[0]
            if found in known and found != name:
                yield found


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, without the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from running_nodes(child)


def arrows(root: Path = ROOT) -> set[Arrow]:
    """Every import between two modules of the library."""
    known = modules(root)
    return {(name, target) for name, path in known.items() for target in imports(name, path, known)}


def entries(found: Iterable[Arrow], folder: str) -> set[Arrow]:
    """The imports between entries (files and folders) of a package, each pair once."""
    start = f"{folder}."
    inside = [pair for pair in found if all(name.startswith(start) for name in pair)]
    pairs = {(a.removeprefix(start).partition(".")[0], b.removeprefix(start).partition(".")[0]) for a, b in inside}
    return {(a, b) for a, b in pairs if a != b}


def circles(found: Iterable[Arrow]) -> list[list[str]]:
    """Sets of names that reach each other along the arrows."""
    targets: dict[str, set[str]] = {}
    for a, b in found:
        targets.setdefault(a, set()).add(b)
    reached = {name: reachable(name, targets) for name in targets}
    rings = {frozenset(b for b in seen if a in reached.get(b, ())) for a, seen in reached.items() if a in seen}
    return sorted(sorted(ring) for ring in rings)


def reachable(name: str, targets: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for target in targets.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def folder_circles(root: Path = ROOT) -> dict[str, list[list[str]]]:
    """Package -> circles between its entries, for the packages that have some."""
    found = arrows(root)
    folders = [name for name, path in modules(root).items() if path.name == "__init__.py"]
    rings = {folder: circles(entries(found, folder)) for folder in folders}
    return {folder: ring for folder, ring in rings.items() if ring}


def folder_sizes(root: Path = ROOT) -> dict[str, int]:
    """Package -> number of its entries: modules and packages, without its own `__init__.py`."""
    sizes: dict[str, int] = {}
    for name in modules(root):
        parent = name.rpartition(".")[0]
        if parent:
            sizes[parent] = sizes.get(parent, 0) + 1
    return sizes


def lines(root: Path = ROOT) -> dict[str, int]:
    """Module -> number of lines."""
    return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(root).items()}


def measure(root: Path) -> list[dict[str, object]]:
    found, lengths, sizes = arrows(root), lines(root), folder_sizes(root)
    widest = max(sizes, key=lambda name: sizes[name])
    numbers: dict[str, object] = {
        "files": len(lengths),
        "lines": sum(lengths.values()),
        f"files of at most {SMALL} lines": sum(length <= SMALL for length in lengths.values()),
        "most entries in a folder": f"{sizes[widest]} ({widest})",
        **{f"arrows in {room}": len(entries(found, f"{PACKAGE}.{room}")) for room in ROOMS},
        "circles of modules": len(circles(found)),
        "circles of folders": sum(len(rings) for rings in folder_circles(root).values()),
    }
    return [{"of the library": name, "": value} for name, value in numbers.items()]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout of this project, to compare with")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    report("structure", measure(args.root), args.out)
    for folder, rings in folder_circles(args.root).items():
        print(f"circle in {folder}:", "; ".join(" <-> ".join(ring) for ring in rings))
    for ring in circles(arrows(args.root)):
        print("circle of modules:", " <-> ".join(ring))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("structure", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
