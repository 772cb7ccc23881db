"""The house rules: each word in its room, the README's tree true, launchers that launch, and nothing of one machine."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from benchmarks.structure import arrows, circles, folder_circles, folder_sizes

ROOT = Path(__file__).resolve().parent.parent
MAX_ENTRIES = 14  # of a folder of the library
VERBS = (
    "scripts/",
    "eval/",
    "benchmarks/",
    "web/",
    "gradio_app.py",
    "latentsync/__main__.py",
)  # they parse, print and start things

# word, or beginning of a dotted word -> the places where it may stand
ROOM_OF_WORD: dict[str, tuple[str, ...]] = {
    "subprocess": ("latentsync/media/", "latentsync/weights/packages.py"),  # external programs; pip
    "av": ("latentsync/media/",),
    "c2pa": ("latentsync/media/",),
    "torch.load": ("latentsync/weights/",),
    "huggingface_hub": ("latentsync/weights/",),
    "torch.hub.load": ("latentsync/weights/",),
    "torch.hub.load_state_dict_from_url": ("latentsync/weights/",),
    "torch.hub.download_url_to_file": ("latentsync/weights/",),
    "torch.distributed": ("latentsync/training/",),
    "accelerate": ("latentsync/training/",),
    "omegaconf.OmegaConf.load": ("latentsync/config/",),
    "argparse.ArgumentParser": VERBS,
    "print": VERBS,
    "shutil.rmtree": (),
    "os.system": (),
    # Systems differ in them; `latentsync.system` has what works on all
    "os.replace": ("latentsync/system.py",),
    "os.rename": (),
    "os.fsync": ("latentsync/system.py",),
    "os.kill": ("latentsync/system.py", "scripts/launch.py"),
    "os.link": ("web/files.py",),
    "shlex.split": ("latentsync/system.py",),
    # other files are written by `atomic_write`; these rename a folder, a resumed download, an upload, a muxed or a staged file
    "latentsync.system.replace_file": (
        "latentsync/files.py",
        "latentsync/media/video/mux.py",
        "latentsync/data/shards/cache.py",
        "latentsync/data/storage.py",
        "latentsync/training/engine/checkpoints.py",
        "latentsync/training/engine/run_folder.py",
        "latentsync/weights/hub.py",
        "web/api/bodies.py",
    ),
}
DISTRIBUTION_OF = {"c2pa": "c2pa-python"}  # where the import of an extra has another name

ROOM_OF_METHOD: dict[str, tuple[str, ...]] = {"from_pretrained": ("latentsync/weights/",)}
SHELL_FILES = [
    ROOT / ".ci/run",
    ROOT / ".ci/resolve",
    *(path for room in (".", "eval", "scripts") for path in sorted((ROOT / room).glob("*.sh"))),
]
LAUNCHERS = ("inference.sh", "train_unet.sh", "train_syncnet.sh", "data_processing_pipeline.sh")

# One letter of each stands in brackets, so that this file does not match itself.
MACHINE_TEXT = re.compile(
    r"/wor[k]/|/hom[e]/[a-z]|/roo[t]/|/User[s]/[a-zA-Z]|/far[m]/|/op[t]/(wheels|pypi)"
    r"|pythonhoste[d]|pyp[i]\.org|registry\.npmj[s]|de[b]\.debian"
)


def kept_files() -> list[str]:
    """Paths, from the root, of all files that are tracked or would be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the files of the project are known only inside a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in set(names) if name and (ROOT / name).is_file())


def product_files() -> list[str]:
    folders = ("latentsync", "scripts", "eval", "benchmarks", "web")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")] + [ROOT / "gradio_app.py"]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def product_trees() -> Iterator[tuple[str, ast.Module]]:
    for name in product_files():
        yield name, ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> full dotted name of everything a file imports."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def used_words(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every dotted word of a file, with local names replaced by what they stand for, and its line."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Name | ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            known = names.get(first, first if first == "print" else "local")
            yield f"{known}.{rest}".rstrip("."), node.lineno


def test_every_word_stands_in_its_room() -> None:
    wrong = []
    for name, tree in product_trees():
        for word, line in used_words(tree):
            rooms = [room for start, room in ROOM_OF_WORD.items() if word == start or word.startswith(f"{start}.")]
            others = not word.startswith("latentsync.")  # the project's own methods may be called the same
            rooms += [room for method, room in ROOM_OF_METHOD.items() if word.endswith(f".{method}") and others]
            wrong += [f"{name}:{line}: {word}" for room in rooms if not name.startswith(room)]
    assert not sorted(set(wrong))


# Names that were replaced by the field's terms; nothing in the library is called so again.
OLD_NAMES = {
    *(
        "listen",
        "told",
        "Heard",
        "Listening",
        "with_silence",
        "Remembered",
        "takes_of",
        "looks",
        "likeness",
        "Observations",
        "Sighting",
    ),
    *("Claims", "Team", "helped", "Work", "lane", "pace", "fault", "sanity", "see", "Look", "Told", "ownership"),
    *("Superseded", "news", "Row", "Report", "Outcome", "Job", "Memory", "experts", "first_says", "agree", "rest_of"),
}


def defined_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every class, function, argument and assigned name of a file, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr, node.lineno


def test_names_are_those_of_the_field() -> None:
    wrong = [
        f"{name}:{line}: {word}"
        for name, tree in product_trees()
        if name.startswith("latentsync/")
        for word, line in defined_names(tree)
        if word.lstrip("_") in OLD_NAMES or word.startswith("HASTY")
    ]
    assert not wrong


def test_imports_make_no_circle() -> None:
    assert circles(arrows()) == []
    assert folder_circles() == {}


def test_folders_are_small() -> None:
    """The rooms themselves are as many as the README's tree shows."""
    sizes = folder_sizes()
    assert {folder: size for folder, size in sizes.items() if size > MAX_ENTRIES and folder != "latentsync"} == {}


def test_no_shell_and_no_device_by_name() -> None:
    wrong = []
    for name, tree in product_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                wrong.append(f"{name}:{node.value.lineno}: shell=")
            if isinstance(node, ast.Call):
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
                texts = [value.value for value in values if isinstance(value, ast.Constant)]
                devices = [text for text in texts if isinstance(text, str) and re.fullmatch(r"cuda(:\d+)?", text)]
                wrong += [f"{name}:{node.lineno}: {device}" for device in devices]
    assert not wrong


def test_text_files_name_their_encoding() -> None:
    """Windows has another default than Linux."""
    wrong = []
    for name, tree in product_trees():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = ast.unparse(call.func).rpartition(".")[2]
            places = {"read_text": 0, "write_text": 1}.get(function)
            named = any(keyword.arg == "encoding" for keyword in call.keywords)
            if places is not None and len(call.args) <= places and not named:
                wrong.append(f"{name}:{call.lineno}: {function}")
    assert not wrong


def test_nothing_is_left_over() -> None:
    wrong = [
        f"{name}:{number}"
        for name in kept_files()
        if name.endswith((".py", ".sh", ".toml", ".yaml"))
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"#.*\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b", line)
    ]
    assert not wrong


def test_no_text_names_a_machine_or_a_registry() -> None:
    wrong = []
    for name in kept_files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:4096]:
            lines = content.decode("utf-8").splitlines()
            wrong += [f"{name}:{number}" for number, line in enumerate(lines, 1) if MACHINE_TEXT.search(line)]
    assert not wrong


@pytest.mark.slow
def test_every_module_imports_in_silence() -> None:
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in product_files()]
    program = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_every_import_is_required() -> None:
    known = required_distributions()
    distributions = packages_distributions()
    wrong = set()
    for name, tree in product_trees():
        tops = {word.split(".")[0] for word in imported_names(tree).values()} - set(sys.stdlib_module_names)
        for top in tops - {"latentsync", "scripts", "eval", "benchmarks", "web"}:
            dists = {dist.lower().replace("_", "-") for dist in distributions.get(top, [DISTRIBUTION_OF.get(top, top)])}
            if not dists & known and not dists & {f"{dist}-headless" for dist in known}:
                wrong.add(f"{name}: {top}")
    assert not wrong


def required_distributions() -> set[str]:
    """Names of all distributions that pyproject.toml lists, in lower case with hyphens."""
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {re.split(r"[\[><=;]", line)[0].lower().replace("_", "-") for line in lines}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_files_parse(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in LAUNCHERS if (ROOT / name).exists()])
def test_launchers_hand_their_arguments_to_one_command(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count('"$@"') == 1 and text.rstrip().endswith('"$@"')
    assert text.startswith("#!/usr/bin/env bash\n")


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="there is no README yet")
def test_the_readme_tree_is_the_real_tree() -> None:
    """The README's block that has a line `latentsync/` names, one a line, every top-level entry and every folder of the library."""
    names = [name for name in kept_files() if not name.startswith(".")]
    shown = tree_entries((ROOT / "README.md").read_text(encoding="utf-8"))
    tops = {top_entry(name) for name in names}
    rooms = {top_entry(name.removeprefix("latentsync/")) for name in names if name.startswith("latentsync/")}
    assert {entry for parent, entry in shown if parent == ""} == tops
    assert {entry for parent, entry in shown if parent == "latentsync/"} == rooms - {"__init__.py"}
    folders = {
        f"{Path(name).parent.as_posix()}/" for name in names if name.startswith("latentsync/") and name.endswith(".py")
    }
    assert folders <= {parent + entry for parent, entry in shown}
    assert not [parent + entry for parent, entry in shown if not (ROOT / parent / entry).exists()]


def top_entry(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first + slash


def tree_entries(text: str) -> set[tuple[str, str]]:
    """(folder or "", entry) of each line of the tree: two more spaces of indent lead into the folder above."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    trees = [block for block in blocks if re.search(r"^latentsync/(\s|$)", block, flags=re.MULTILINE)]
    assert len(trees) == 1, "the README has one block that shows the tree"
    entries, folders = set(), [""]
    for line in trees[0].splitlines():
        indent, entry = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        depth = len(indent) // 2
        entries.add((folders[depth], entry))
        folders[depth + 1 :] = [folders[depth] + entry]
    return entries
