"""How training scripts show progress and describe what they made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_row(row: dict[str, Any]) -> None:
    """One line of training status."""
    shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
    print(shown, flush=True)


def write_description(checkpoint: Path, metadata: Mapping[str, Any]) -> None:
    """What a checkpoint says about itself, as a JSON file of the same name beside it."""
    checkpoint.with_suffix(".json").write_text(json.dumps(metadata, indent=1) + "\n")
