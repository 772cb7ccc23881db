"""The record of the settings in an output folder; results of different settings are never mixed."""

import dataclasses
import json
from typing import Any

from latentsync.data.storage import Folder
from latentsync.processing.config import StageSettings
from latentsync.processing.plan import Plan, stage_names
from latentsync.processing.run_folder import RunFolder

SETTINGS = "settings.json"
OF_THE_MACHINE = ("weights_dir", "device")  # settings that do not affect results


def check_output(run_folder: RunFolder, plan: Plan, settings: StageSettings) -> None:
    """Check that a run may continue in the output folder, and record its settings.

    Raises ValueError if the folder holds results of another input or other settings, or files that no run wrote, or if it
    cannot be written to.
    """
    now = _content(run_folder, settings)
    try:
        if not run_folder.manifests.exists(SETTINGS):
            _check_empty(run_folder, plan)
            run_folder.manifests.write(SETTINGS, json.dumps(now, indent=2).encode("utf-8"))
            return
        before = json.loads(run_folder.manifests.read(SETTINGS))
    except OSError as error:
        raise ValueError(
            f"{run_folder.output.address} cannot be written to ({error}): choose another --output_dir."
        ) from error
    if before["input"] != now["input"]:
        raise ValueError(
            f"{run_folder.output.address} holds the clips of {before['input']}: choose another --output_dir for {now['input']}."
        )
    changed = [f"{name} {old} -> {value}" for name, old, value in _changed(before, now)]
    if changed:
        raise ValueError(
            f"{run_folder.output.address} holds results with other settings ({', '.join(changed)}): choose another --output_dir, "
            f"or apply new thresholds to its manifests with --reapply {run_folder.manifests.address}."
        )


def recorded_settings(manifests: Folder) -> tuple[str, StageSettings]:
    """The input's address and the settings that a folder of manifests was made with.

    Raises ValueError if the folder holds no record.
    """
    content = _read(manifests)
    known = {each.name for each in dataclasses.fields(StageSettings)}
    settings = {name: value for name, value in content["settings"].items() if name in known}
    return content["input"], StageSettings(**settings)


def recorded_entries(manifests: Folder) -> list[str]:
    """The recorded settings as entries of a configuration, such as `stages.min_quality=30`. Raises ValueError without a record."""
    _, settings = recorded_settings(manifests)
    return [f"stages.{name}={json.dumps(value)}" for name, value in _plain(settings).items()]


def write_rejudged(manifests: Folder, input_address: str, settings: StageSettings, output: Folder) -> None:
    """Record the settings of manifests outside the output folder, and the output folder that contains their files."""
    content = {"input": input_address, "output": output.address, "settings": _plain(settings)}
    manifests.write(SETTINGS, json.dumps(content, indent=2).encode("utf-8"))


def clips_folder(manifests: Folder) -> Folder:
    """The folder that contains the files of a folder of manifests. Raises ValueError if that holds no record."""
    output = _read(manifests).get("output")
    return Folder(output) if output else manifests.beside()


def _read(manifests: Folder) -> dict[str, Any]:
    try:
        return json.loads(manifests.read(SETTINGS))
    except FileNotFoundError as error:
        raise ValueError(f"{manifests.address} holds no {SETTINGS}: give the folder `manifests` of a run.") from error


def _content(run_folder: RunFolder, settings: StageSettings) -> dict[str, Any]:
    return {"input": run_folder.input.address, "settings": {**_plain(settings), "keep_stages": run_folder.keep_stages}}


def _plain(settings: StageSettings) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in OF_THE_MACHINE}


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, old value, new value) of changed settings; one that the record lacks is newer, and had its default."""
    known = {**_plain(StageSettings()), **before["settings"]}
    return [(name, known.get(name), value) for name, value in now["settings"].items() if known.get(name) != value]


def _check_empty(run_folder: RunFolder, plan: Plan) -> None:
    for stage in stage_names(plan):
        folder = run_folder.output.under(stage)
        if folder.files():
            raise ValueError(f"{folder.address} already holds files that no run wrote: choose another --output_dir.")
