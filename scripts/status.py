"""How scripts show progress to a person."""

from typing import Any


def print_row(row: dict[str, Any]) -> None:
    """One line of training status."""
    shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
    print(shown, flush=True)
