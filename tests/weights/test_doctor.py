"""The doctor prints what is installed and runs the demo."""

import pytest

from latentsync.weights import CheckpointError
from scripts import doctor


def test_the_doctor_lists_what_it_finds_and_runs_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out
    for word in ("torch", "chosen", "libx264", "latentsync_unet.pt", "5 of 5 frames synced"):
        assert word in shown


def test_a_demo_that_cannot_run_is_reported_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise CheckpointError("the weights are gone")

    monkeypatch.setattr(doctor, "smoke_test", broken)
    assert doctor.main([]) == 1
    assert "the weights are gone" in capsys.readouterr().out


def test_the_doctor_prints_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--licences"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for words in (
        ("latentsync ", "Apache-2.0"),
        ("latentsync_unet.pt", "OpenRAIL++-M", "yes"),
        ("s3fd-", "WIDER FACE", "no"),
    ):
        assert any(all(word in line for word in words) for line in lines), words
