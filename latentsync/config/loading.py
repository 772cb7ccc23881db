"""Loading a configuration: YAML files that contain only the differences from a `base`, then overrides from the command line.

`base: other.yaml` (or a list, in which later files override earlier ones) names files relative to the file that contains it.
Sections are merged key by key; a list or a plain value replaces that of the base. Keys that are not set have the schema's
default. If the schema has a `public_layout`, a file may also have the layout of the public releases (see
`latentsync.config.public_layout`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from latentsync.config.public_layout import PublicLayout, is_public, translate, unknown_key
from latentsync.models.sections import did_you_mean
from latentsync.places import find_configuration

Run = TypeVar("Run")
BASE = "base"
log = logging.getLogger(__name__)


def load(path: Path | str, schema: type[Run], overrides: Sequence[str] = ()) -> Run:
    """Read a YAML configuration into `schema`; `overrides` are dotlist entries such as `train.max_steps=10`.

    Calls the schema's method `check()`, if it has one. Logs once every renamed or dropped key of a file in the public layout.

    Raises:
        ValueError: a file is missing or not valid YAML, a key is unknown (the message suggests the closest one), a value has the
            wrong type, or entries contradict each other.
    """
    merged = OmegaConf.structured(schema)
    layers = [(origin, _in_own_layout(section, origin, schema)) for origin, section in _layers(Path(path), ())]
    for origin, section in [*layers, ("the command line", _from_dotlist(overrides))]:
        section = _with_new_names(section, schema)
        merged = _merge(merged, section, origin, schema)
    run: Run = OmegaConf.to_object(merged)  # type: ignore[assignment]
    check = getattr(run, "check", None)
    if check is not None:
        try:
            check()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return run


def to_yaml(run: Any) -> str:
    """A run's configuration with all entries, defaults included, as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def _layers(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path | str, DictConfig]]:
    """Path and content, without `base`, of a configuration file and its bases; a base comes before the file that names it."""
    path = find_configuration(path)
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base: {' -> '.join(str(each) for each in [*above, path.resolve()])}.")
    section = _read(path)
    bases = section.pop(BASE, [])
    for base in [bases] if isinstance(bases, str) else bases:
        yield from _layers(path.parent / base, (*above, path.resolve()))
    yield path, section


def _read(path: Path) -> DictConfig:
    try:
        section = OmegaConf.load(path)
    except Exception as error:  # any error of the YAML library
        raise ValueError(f"{path} is not a valid YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(section, DictConfig):
        raise ValueError(f"{path} has no sections: write entries such as `train:`.")
    return section


def _from_dotlist(overrides: Sequence[str]) -> DictConfig:
    wrong = [entry for entry in overrides if "=" not in entry or entry.startswith("=")]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} is not a configuration entry: write section.name=value, such as train.max_steps=10."
        )
    try:
        return OmegaConf.from_dotlist([f"{entry}''" if entry.endswith("=") else entry for entry in overrides])
    except Exception as error:  # any error of OmegaConf or the YAML library
        raise ValueError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error


@cache
def _log_once(line: str) -> None:
    """Log a line once per process, as a command may read a configuration several times."""
    log.info(line)


def _in_own_layout(section: DictConfig, origin: Path | str, schema: type) -> DictConfig:
    """A file's content in this project's layout; logs the keys of the public layout."""
    layout: PublicLayout | None = getattr(schema, "public_layout", None)
    content = OmegaConf.to_container(section)
    if layout is None or not is_public(content, layout):  # type: ignore[arg-type]
        return section
    own_keys = key_names(OmegaConf.to_container(OmegaConf.structured(schema)))
    unknown = unknown_key(content, layout, own_keys)  # type: ignore[arg-type]
    if unknown:
        raise _unknown_key(unknown, origin, schema)
    try:
        translated, lines = translate(content, layout)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
    for line in lines:
        _log_once(f"{origin}: {line}.")
    return OmegaConf.create(translated)


def _with_new_names(section: DictConfig, schema: type) -> DictConfig:
    """Rename sections of earlier versions to their current names (`renamed_sections` of the schema: old -> new)."""
    renamed: Mapping[str, str] = getattr(schema, "renamed_sections", {})
    for old, new in renamed.items():
        if old in section:
            section = OmegaConf.merge({new: section.pop(old)}, section)  # type: ignore[assignment]
    return section


def _unknown_key(key: str, origin: Path | str, schema: type) -> ValueError:
    known = key_names(OmegaConf.to_container(OmegaConf.structured(schema)))
    layout: PublicLayout | None = getattr(schema, "public_layout", None)
    return ValueError(f"{origin}: unknown key {key!r}.{did_you_mean(key, [*known, *(layout.keys if layout else [])])}")


def _merge(below: Any, section: DictConfig, origin: Path | str, schema: type) -> Any:
    try:
        return OmegaConf.merge(below, section)
    except ConfigKeyError as error:
        raise _unknown_key(str(error.full_key), origin, schema) from error
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise ValueError(f"{origin}: {where}{str(error).splitlines()[0]}") from error


def key_names(section: Any, prefix: str = "") -> list[str]:
    """Dotted names of all keys of nested sections."""
    if not isinstance(section, Mapping):
        return []
    names = [f"{prefix}{key}" for key in section]
    for key, value in section.items():
        names += key_names(value, f"{prefix}{key}.")
    return names


def plain(run: Any) -> dict[str, Any]:
    """A run's configuration with all entries, defaults included, as plain dictionaries, lists and values."""
    return OmegaConf.to_container(OmegaConf.structured(run))  # type: ignore[return-value]


def flat(run: Any) -> dict[str, Any]:
    """`plain` with one level: values by dotted name, such as `train.max_steps`."""
    return dict(_flat(plain(run), ""))


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def free_sections(run: Any, prefix: str = "") -> list[str]:
    """Dotted names of the entries of a configuration that are dictionaries, whose keys the schema does not list."""
    values = {field.name: getattr(run, field.name) for field in fields(run)}
    inner = [
        each
        for name, value in values.items()
        if is_dataclass(value)
        for each in free_sections(value, f"{prefix}{name}.")
    ]
    return [*inner, *(f"{prefix}{name}" for name, value in values.items() if isinstance(value, dict))]
