"""Files of the app's folder: copies of uploads, a secret, and what is deleted."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from latentsync.files import atomic_write
from latentsync.system import is_in_use, usable_stem
from web import texts

ID_BYTES = 24
STEM_LENGTH = 60


def disk_problem(error: OSError) -> str:
    """A sentence for a file that could not be written."""
    return (
        texts.DISK_FULL
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else texts.NOT_WRITTEN.format(reason=error.strerror)
    )


def copied(source: Path, folder: Path, name: str) -> Path:
    """A hard link to a file, or a copy if the file system has no links, which remains when the upload is deleted."""
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}{plain_suffix(source)}"
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def plain_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


def newest(folder: Path) -> float:
    """Time of the last change (ctime) of a folder or anything in it that is not gone meanwhile; 0 if all of it is."""
    times = [0.0]
    for path in (folder, *tree(folder)):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_ctime)
    return max(times)


def tree(folder: Path) -> Iterator[Path]:
    """Everything below a folder, deepest first; links are not followed, and a folder that is gone meanwhile has nothing in it."""
    for root, folders, files in os.walk(folder, topdown=False):
        yield from (Path(root) / name for name in (*files, *folders))


def remove_own(folder: Path) -> None:
    """Delete a folder of the app and everything in it; what Windows keeps because it is being sent is left to the next sweep."""
    try:
        for path in (*tree(folder), folder):
            with suppress(FileNotFoundError):  # somebody else deletes it too
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink()
    except OSError as error:
        if not is_in_use(error):
            raise


def kept_secret(path: Path) -> str:
    """The content of a file of random letters, which is made if it is missing."""
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(secrets.token_urlsafe(ID_BYTES), encoding="ascii")
            partial.chmod(0o600)
    return path.read_text(encoding="ascii")


def plain_stem(name: str) -> str:
    """The stem of a file name, safe for a path: only letters, digits, '-' and '_', never empty."""
    return usable_stem(re.sub(r"[^\w-]+", "_", Path(name).stem).strip("_-")[:STEM_LENGTH] or "video")
