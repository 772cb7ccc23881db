"""Checkpoints in parts: each process of a sharded training writes its own, and any number of processes goes on."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from latentsync.training.engine.checkpoints import STATE, Checkpoints
from latentsync.training.engine.sharded import METADATA, PARTS, read_parts, stored_shapes, write_parts
from latentsync.weights import CheckpointError, read_state
from tests.support.training_program import run_together, train_in_parts

pytest.importorskip("torch.distributed.fsdp", reason="this PyTorch has no FSDP")


def stored(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint in parts."""
    place = folder / f"checkpoints/step-{step:08d}" / PARTS
    tensors = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in stored_shapes(place).items()}
    read_parts(place, tensors)
    return tensors


@pytest.mark.slow
def test_a_sharded_run_resumes_exactly_and_with_another_number_of_processes(tmp_path: Path) -> None:
    whole, halves, changing = (tmp_path / name for name in ("whole", "halves", "changing"))
    assert run_together(train_in_parts, 2, whole, 4) == [0, 0]
    for steps in (2, 4):
        assert run_together(train_in_parts, 2, halves, steps) == [0, 0]
    expected, found = stored(whole, 4), stored(halves, 4)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert {name.split(".")[0] for name in expected} == {"module", "ema", "optimizer"}
    assert len(list((whole / "checkpoints/step-00000004" / PARTS).glob("*.distcp"))) == 2, "each process writes its own"
    for steps, count, is_sharded in ((1, 2, True), (2, 4, True), (3, 1, False)):
        assert run_together(train_in_parts, count, changing, steps, is_sharded) == [0] * count
    assert run_together(train_in_parts, 2, changing, 4) == [0, 0], "and from an undivided checkpoint"
    found = stored(changing, 4)
    assert all(torch.allclose(expected[name], found[name], atol=1e-6) for name in expected)
    rows = [json.loads(line) for line in (changing / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    parts = changing / "checkpoints/step-00000004" / PARTS
    next(parts.glob("*.distcp")).unlink()
    found_path, _ = Checkpoints(changing / "checkpoints", 3).newest() or (None, None)
    assert found_path and found_path.name == "step-00000003", "an incomplete checkpoint is skipped for the one before"


def test_a_list_of_parts_with_other_objects_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, {"module.x": torch.arange(4.0)})
    assert stored_shapes(tmp_path) == {"module.x": (torch.Size([4]), torch.float32)}

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "done"),)

    (tmp_path / METADATA).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match="mkdir does not belong into a checkpoint"):
        stored_shapes(tmp_path)
    assert not (tmp_path / "done").exists()


def test_old_parts_are_deleted_and_other_files_beside_them_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    for step in (1, 2):
        write_parts(checkpoints.begin(step), {"module.x": torch.zeros(2)})
        checkpoints.save(step, {"step": step}, None)
        if step == 1:
            (checkpoints.path(1) / PARTS / "notes.txt").write_text("mine")
    assert read_state(checkpoints.path(2) / STATE)["parts"] and checkpoints.steps() == [2]
    assert [path.name for path in checkpoints.path(1).rglob("*") if path.is_file()] == ["notes.txt"]
