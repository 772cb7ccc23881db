"""Atomic writes leave the old file or the new one; hashes tell contents and networks apart."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from latentsync.files import atomic_write, file_hash, network_hash


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path, shared) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.parent == path.parent
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shared", [False, True])
def test_a_failed_write_changes_nothing(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, shared) as partial:
        partial.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_shared_writers_have_a_temporary_file_each(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path, shared=True) as one, atomic_write(path, shared=True) as two:
        one.write_text("same")
        two.write_text("same")
    assert path.read_text() == "same" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_hashed_by_its_content(tmp_path: Path) -> None:
    path, content = tmp_path / "a", bytes(range(256)) * 10_000
    path.write_bytes(content)
    assert file_hash(path) == hashlib.sha256(content).hexdigest()
    assert file_hash(path, hashlib.blake2b(digest_size=16)) == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_a_network_is_hashed_by_its_weights() -> None:
    network = nn.Linear(3, 4)
    before = network_hash(network), network_hash(network, 1)
    same = nn.Linear(3, 4)
    same.load_state_dict(network.state_dict())
    assert (network_hash(same), network_hash(same, 1)) == before
    with torch.no_grad():
        same.weight[-1, -1] += 1
    assert network_hash(same) != before[0] and network_hash(same, 1) == before[1]
