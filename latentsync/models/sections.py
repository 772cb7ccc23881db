"""Sections of configuration files and of checkpoints as dataclasses, whose fields are the only list of their names."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any


def arguments_of(schema: type, section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The section as keyword arguments for dataclass `schema`, with plain lists; ValueError for unknown and missing keys."""
    known = [field.name for field in fields(schema)]
    for key in section:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {where}.{suggestion(key, known)}")
    for field in fields(schema):
        if field.name not in section and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{field.name} is missing in {where}.")
    return {
        key: list(value) if not isinstance(value, (str, Mapping)) and hasattr(value, "__iter__") else value
        for key, value in section.items()
    }


def suggestion(key: str, known: Sequence[str]) -> str:
    """A sentence, after a space, that suggests the known key closest to a wrong one, or lists all keys if none is close."""
    return did_you_mean(key, known) or f" Known keys: {', '.join(known)}."


def did_you_mean(key: str, known: Sequence[str]) -> str:
    """A sentence, after a space, that suggests the known key closest to a wrong one; empty if none is close."""
    close = difflib.get_close_matches(key, known, n=1)
    if not close:  # perhaps the right name in the wrong section
        close = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return f" Did you mean {close[0]!r}?" if close else ""
