"""The recorded answers: the reference's where they lie beside the project, and a small set of the project's own.

LATENTSYNC_FULL_GOLDEN=1 adds the networks that take minutes and gigabytes at full size.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.__main__ import find_cases, load_runners, main, run_case
from tests.golden.harness import RUNNERS, GoldenCase
from tests.golden.make import make

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests/golden/own"
SHARED = ROOT.parent / "shared/golden"
FULL_SIZE = ("unet_full", "videomaev2_full")
SLOW = {"denoise", "stable_syncnet", "end_to_end", "unet_small"}
MAX_OWN_BYTES = 1_000_000

load_runners()


def chosen_cases() -> list[GoldenCase]:
    cases = find_cases(SHARED) + find_cases(OWN)
    return [case for case in cases if case.name not in FULL_SIZE or os.environ.get("LATENTSYNC_FULL_GOLDEN") == "1"]


def marked_cases() -> list:
    """The chosen cases, those that take long marked `slow`."""
    return [pytest.param(case, marks=[pytest.mark.slow] if case.name in SLOW else []) for case in chosen_cases()]


@pytest.mark.parametrize("case", marked_cases(), ids=lambda case: f"{case.path.parent.name}-{case.name}")
def test_recorded_answers_are_met(case):
    if case.is_fact:
        return
    checks = run_case(case)
    assert checks
    assert not [check for check in checks if not check.ok]


def write_case(
    folder: Path, name: str, arrays: dict[str, Any] | None = None, facts: dict[str, Any] | None = None
) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"case": name, "what": "Rules.", **(facts or {})}))
    if arrays is not None:
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def test_facts_are_listed_and_unknown_cases_fail(tmp_path, capsys):
    write_case(tmp_path, "training_facts")
    assert main([str(tmp_path)]) == 0
    assert "fact: Rules." in capsys.readouterr().out
    write_case(tmp_path, "moon_phase")
    assert main([str(tmp_path)]) == 1
    assert "unknown case FAIL" in capsys.readouterr().out


def test_facts_with_numbers_are_not_passed_over(tmp_path):
    write_case(tmp_path, "training_facts", arrays={"rate": np.ones(1)})
    assert main([str(tmp_path)]) == 1


def test_wrong_and_broken_cases_fail_and_do_not_hide_others(tmp_path, capsys, monkeypatch):
    own = GoldenCase(OWN / "diffusion_math.json")
    write_case(tmp_path, own.name, {**own.arrays, "noisy": own.arrays["noisy"] + 1}, own.facts)
    write_case(tmp_path, "denoise")  # lacks everything
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.endswith("FAIL")] == [
        ["denoise", "KeyError:"],
        ["diffusion_math", "noisy"],
    ]
    monkeypatch.setitem(RUNNERS, "denoise", lambda case: iter(()))
    assert main([str(tmp_path), "--only", "denoise"]) == 1


@pytest.mark.slow
def test_the_shipped_set_is_small_and_can_be_made_again(tmp_path):
    assert sum(path.stat().st_size for path in OWN.rglob("*") if path.is_file()) < MAX_OWN_BYTES
    make(tmp_path)
    made, shipped = ({case.name: case.facts for case in find_cases(folder)} for folder in (tmp_path, OWN))
    assert made.keys() == shipped.keys()
    assert {name: facts["arrays"] for name, facts in made.items()} == {n: f["arrays"] for n, f in shipped.items()}
