"""Fetching public checkpoints: what is there, and from a mirror folder, the hub's cache or the network to its place.

The hub is asked through huggingface_hub (so HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count); bytes are received here,
because a download that is killed must go on where it stopped. Nothing appears at its place before it is verified.
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

from latentsync.files import file_hash, partial_path
from latentsync.weights.damage import check_file
from latentsync.weights.sources import Source, remember, sources
from latentsync.weights.table import (
    CHECKPOINTS,
    DEFAULT_RELEASE,
    PUBLIC_VAE,
    CheckpointError,
    PublicFile,
    UnreachableError,
)

TIMEOUT_SEC = 20.0
CHUNK_BYTES = 1 << 20
STALLS = 4  # attempts in a row that may bring nothing
PAUSE_SEC = 1.0  # before the next attempt; doubles with each that brings nothing

Report = Callable[[int, int | None], None]  # bytes received so far, bytes in all if known
State = Literal["there", "missing", "damaged", "other release"]


@dataclass(frozen=True)
class FileState:
    """What is on the disk for one public file."""

    file: PublicFile
    state: State
    detail: str = ""  # for people


@dataclass(frozen=True)
class Remote:
    """What a server says about a file."""

    url: str
    size: int | None
    digest: str
    headers: Mapping[str, str] = field(default_factory=dict)


def look(file: PublicFile, folder: Path = CHECKPOINTS) -> FileState:
    """Whether a file is at its place (or, for the auto-encoder, in the hub's cache); no network, no hashing."""
    path = folder / file.path
    if not path.exists():
        is_cached = file.repo == PUBLIC_VAE and cached_path(file) is not None
        return FileState(file, "there", "in the hub's cache") if is_cached else FileState(file, "missing")
    try:
        _check_content(path, file)
    except CheckpointError as error:
        return FileState(file, "damaged", str(error))
    source = sources(folder).get(file.path)
    if source is None:
        return FileState(file, "there", "of unknown origin")
    if source.size != path.stat().st_size:
        return FileState(file, "there", f"changed since it came from {source.origin}")
    if file.release and source.release != file.release:
        return FileState(file, "other release", f"release {source.release}")
    return FileState(file, "there", f"from {source.origin}")


def fetch(
    file: PublicFile, folder: Path = CHECKPOINTS, mirror: Path | None = None, report: Report = lambda done, size: None
) -> None:
    """Bring a file to its place, verified: from `mirror`, else the hub's cache, else the network.

    `mirror` is laid out like checkpoints/ or as REPOSITORY/FILE. A download that was cut goes on where it stopped.

    Raises:
        UnreachableError: there is no connection, or it was lost for good.
        CheckpointError: the server refuses, the disk is full, or what came is not the file.
    """
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    local = _in_mirror(file, mirror) or cached_path(file)
    if local:
        remote = Remote(str(local), local.stat().st_size, file.sha256)
        partial = partial_path(path)
        _check_space(partial, remote.size)
        shutil.copyfile(local, partial)
    else:
        remote = _ask_hub(file) if file.repo else _ask_server(file)
        partial = partial_path(f"{path}.{remote.digest[:12] or 'download'}")
        _check_space(partial, remote.size)
        _receive(remote, partial, report)
    _verify(partial, file, remote)
    os.replace(partial, path)
    origin = str(mirror) if local and mirror else file.origin
    remember(file, folder, Source(origin, file.release, path.stat().st_size, remote.digest))


def _check_content(path: Path, file: PublicFile) -> None:
    if not file.path.endswith(".json"):
        check_file(path)
        return
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON: it is damaged, fetch it again.") from error


def cached_path(file: PublicFile) -> Path | None:
    """Where the hub's cache of this machine keeps a file; None if it does not."""
    found = try_to_load_from_cache(file.repo, file.name) if file.repo else None
    return Path(found).resolve() if isinstance(found, str) else None


def _in_mirror(file: PublicFile, mirror: Path | None) -> Path | None:
    """A mirror names the repository, or holds the default release at the paths of checkpoints/."""
    if mirror is None:
        return None
    if not mirror.is_dir():
        raise CheckpointError(f"The mirror {mirror} is no folder: give one that holds the files.")
    places = [f"{file.repo}/{file.name}", f"{file.repo.split('/')[-1]}/{file.name}"] if file.repo else []
    places += [file.path] if file.release in ("", DEFAULT_RELEASE) else []
    return next((mirror / place for place in places if (mirror / place).is_file()), None)


def _ask_hub(file: PublicFile) -> Remote:
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(file.repo, file.name, endpoint=endpoint)
    try:
        facts = get_hf_file_metadata(url, timeout=TIMEOUT_SEC)
    except OfflineModeIsEnabled as error:
        raise UnreachableError("The hub is switched off by HF_HUB_OFFLINE") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{file.repo} wants you to accept its terms: do so on its page, then set HF_TOKEN to a token of yours."
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{file.repo} at {urlsplit(url).netloc} holds no {file.name}.") from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"{urlsplit(url).netloc} refuses {file.repo}/{file.name}: {_line(error)}") from error
    except Exception as error:  # the client's own kinds differ between versions of huggingface_hub
        raise UnreachableError(f"{urlsplit(url).netloc} cannot be reached ({_line(error)})") from error
    is_same_server = urlsplit(facts.location).netloc == urlsplit(url).netloc
    headers = build_hf_headers() if is_same_server else {}  # a token is for the hub alone
    return Remote(facts.location, facts.size, facts.etag or "", headers)


def _ask_server(file: PublicFile) -> Remote:
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
            f"The disk of {partial.parent} has {free / 1e9:.1f} GB left, but {wanted / 1e9:.1f} GB are to come: make room."
        )


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _receive(remote: Remote, partial: Path, report: Report) -> None:
    """Receive until the file is whole; goes on after a cut, and gives up when several attempts in a row bring nothing."""
    stalls, reason = 0, ""
    if remote.size is not None and _bytes(partial) > remote.size:
        partial.unlink()
    while remote.size is None or _bytes(partial) < remote.size:
        before = _bytes(partial)
        try:
            _receive_once(remote, partial, report)
            if remote.size is None:
                return
            reason = "the connection was cut"
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


def _receive_once(remote: Remote, partial: Path, report: Report) -> None:
    done = _bytes(partial)
    headers = {**remote.headers, **({"Range": f"bytes={done}-"} if done else {})}
    request = urllib.request.Request(remote.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SEC) as answer:
        done = done if answer.status == 206 else 0  # a server without ranges begins anew
        with partial.open("ab" if done else "wb") as out:
            report(done, remote.size)
            while piece := answer.read1(CHUNK_BYTES):
                out.write(piece)
                done += len(piece)
                report(done, remote.size)


def _verify(partial: Path, file: PublicFile, remote: Remote) -> None:
    """Compare with the size and the digest that the hub reports and the hash of the table; a wrong file is removed."""
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
        partial.unlink()
        raise CheckpointError(f"{file.path} from {file.origin} is not what was published ({problem}): fetch it again.")


def _has_digest(path: Path, expected: str) -> bool:
    """Compare a file with a SHA-256 (or its beginning) or git's SHA-1 of its content; anything else says nothing."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", expected):
        return True
    is_git = len(expected) == 40
    digest: Any = hashlib.sha1() if is_git else hashlib.sha256()
    if is_git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    return file_hash(path, digest).startswith(expected)
