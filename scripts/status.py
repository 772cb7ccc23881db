"""Output of the training scripts: log messages, and a JSON description beside a checkpoint."""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def configure_logging(is_main: bool = True, name: str = "latentsync") -> None:
    """Print messages of the logger `name`: INFO on stdout, warnings on stderr; without `is_main`, warnings only."""
    information, warnings = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    information.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings.setLevel(logging.WARNING)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[information, warnings], force=True)
    logging.getLogger(name).setLevel(logging.INFO if is_main else logging.WARNING)


def write_description(checkpoint: Path, metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint's metadata into a JSON file with the same name beside it."""
    checkpoint.with_suffix(".json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
