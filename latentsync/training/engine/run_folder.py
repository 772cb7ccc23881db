"""The folder of a run: it belongs to the run that it was started for, and one training at a time uses it.

    run.json      what the run was started with, and every later change of its settings with the step it was made at
    run.lock      locked by the training that uses the folder; `run.holder.json` names its process
    config.yaml   the resolved configuration of the last training
    clips.jsonl   the clips to train on, and those left out with reasons

A resumed training may change how long, how fast and how closely it is watched (`MAY_CHANGE`); these changes are logged and
recorded. It may not change what is learned: other clips, networks, windows or batches are another run, which needs a folder of its
own. Files are compared by content, so that they and the clips may move.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from latentsync import __version__
from latentsync.config.loading import flat, free_sections, load, to_yaml
from latentsync.data.clips import ClipIndex, contents, write_index
from latentsync.data.store import network_key
from latentsync.files import atomic_write, process_lives
from latentsync.system import replace_file
from latentsync.training.engine.checkpoints import Checkpoints
from latentsync.training.engine.distributed import Processes

RECORD, LOCK, HOLDER = "run.json", "run.lock", "run.holder.json"
CONFIG, CLIPS = "config.yaml", "clips.jsonl"
DEAD_HOLDER_SEC = 30.0  # the workers of a killed process keep its lock until they notice, after some seconds
SHOWN = 8  # differences in an error
UNKNOWN = ""  # hash of a file that an earlier version has not recorded and that is gone

# Settings that a resumed training may change, or sections of them: length, rates, precision, what is stored and watched, speed,
# places. Files named here are compared by content, if the run uses them; clips are compared by theirs.
MAY_CHANGE = (
    *(f"data.{name}" for name in ("train_data_dir", "train_fileslist", "val_data_dir", "val_fileslist", "cache_dir")),
    *(f"data.{name}" for name in ("train_output_dir", "num_workers", "memory_mb", "shard_cache_gb")),
    *(f"train.{name}" for name in ("max_steps", "learning_rate", "schedule", "warmup_steps", "final_rate_share")),
    *(f"train.{name}" for name in ("weight_decay", "max_grad_norm", "ema_decay", "precision", "log_steps")),
    *(f"train.{name}" for name in ("checkpoint_steps", "checkpoint_minutes", "keep_checkpoints", "validation_steps")),
    *(f"train.{name}" for name in ("max_skipped_steps", "max_rollbacks", "tracker")),
    *("init_from", "distill.teacher", "vae", "decoder_of", "frozen_networks"),
    *("gradient_checkpointing", "half_weights", "store_changes", "inference", "validation", "preflight", "plateau"),
)
STEP_SIZE = ("data.batch_size", "train.gradient_accumulation")  # their product counts: the items of one optimizer step
log = logging.getLogger(__name__)


@dataclass
class RunRecord:
    """What a run was trained with: settings by dotted name, hashes of the files that it uses by setting, and changes made since."""

    settings: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)  # [{"step": n, "settings": {name: [before, after]}}]


class RunFolder:
    """A run's folder, as one training sees it. Methods that are called by all processes act in the first one."""

    def __init__(
        self,
        path: Path | str,
        run: Any = None,
        files: Mapping[str, Path | str] | None = None,
        fresh: bool = False,
    ):
        """`run` is the configuration, None where there is nothing to compare; `files` are those that it uses, by setting.

        With `fresh` an earlier run is moved to a folder beside this one. ValueError if the folder has no name.
        """
        if str(path) in ("", "."):
            raise ValueError("data.train_output_dir is not set: choose a folder for checkpoints and logs.")
        self.path, self.run, self.files, self.fresh = Path(path), run, dict(files or {}), fresh
        self.index: ClipIndex | None = None
        self.record = RunRecord({})
        self._hashes: dict[str, str] = {}  # of the files, by setting
        self._lock, self._depth = FileLock(self.path / LOCK, timeout=0), 0

    def check(self, processes: Processes, index: ClipIndex | None = None) -> None:
        """Refuse another run than the folder's; `index` are the clips, once they are known. All processes call it.

        Raises:
            ValueError: in all processes.
        """
        self.index = index or self.index
        self.record = processes.broadcast_from_main(self._checked)

    @contextmanager
    def held(self, processes: Processes) -> Iterator[None]:
        """Inside, no other training can use the folder; may be nested. All processes call it.

        Raises:
            ValueError: in all processes, if another training uses it, or it cannot be written.
        """
        with processes.raise_together():
            if processes.is_main:
                self._hold()
        try:
            yield
        finally:
            if processes.is_main:
                self._release()

    def begin(self, step: int, max_steps: int) -> None:
        """Log where the run goes on and what differs, and record it. The first process calls it, while it holds the folder."""
        if step:
            done = "is finished" if step >= max_steps else "goes on"
            log.info(f"{self.path} {done} at step {step} of {max_steps}.")
        if self.run is None:
            return
        changed = self._changed()
        if changed and step:
            log.info("Other settings than before: " + ", ".join(difference(*each) for each in changed.items()))
            self.record.changes.append({"step": step, "settings": changed})
        self.record.settings = self._settings()
        self._write()

    def origin(self) -> dict[str, Any] | None:
        """For the metadata of stored weights: hashes of the files that the run was started with, and changes of settings since."""
        facts = {"files": self.record.files, "changes": self.record.changes}
        return {name: value for name, value in facts.items() if value} or None

    def _settings(self) -> dict[str, Any]:
        return {} if self.run is None else flat(self.run)

    def _changed(self) -> dict[str, list[Any]]:
        """[before, after] of the settings that differ; those that only one version of the program has are left out."""
        before, now = self.record.settings, self._settings()
        names = [name for name in {**before, **now} if (name in before and name in now) or self._is_free(name)]
        return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}

    def _is_free(self, name: str) -> bool:
        """Whether a setting is an entry of a dictionary, such as a loss's weight: one that is missing was taken out."""
        return any(name.startswith(f"{section}.") for section in free_sections(self.run))

    def _has_run(self) -> bool:
        return bool(Checkpoints(self.path / "checkpoints", keep=1).steps())

    def _checked(self) -> RunRecord:
        """The record that this training continues or starts; ValueError if it is another run than the folder's."""
        self._hashes = files = self._hashes or hashes(self.files)
        if self.run is None or self.fresh or not self._has_run():
            return RunRecord(self._settings(), files)
        self.record = self._stored() or RunRecord(self._settings(), files)
        changed = self._changed()
        if all(name in self._settings() for name in STEP_SIZE) and self._same_step_size():
            changed = {name: pair for name, pair in changed.items() if name not in STEP_SIZE}
        wrong = [difference(name, pair) for name, pair in changed.items() if not may_change(name)]
        wrong += [*self._other_files(files), *self._other_clips()]
        if wrong:
            raise ValueError(
                f"{self.path} belongs to another run: {'; '.join(wrong[:SHOWN])}{'; ...' if wrong[SHOWN:] else ''}. Choose"
                " another data.train_output_dir, or give --fresh, which moves that run to a folder beside this one."
            )
        return self.record

    def _same_step_size(self) -> bool:
        before, now = (
            [values.get(name, 1) for name in STEP_SIZE] for values in (self.record.settings, self._settings())
        )
        return before[0] * before[1] == now[0] * now[1]

    def _other_files(self, now: Mapping[str, str]) -> list[str]:
        """How the files differ from those of the run, in words; one that is gone today is not compared."""
        before = self.record.files
        wrong = [f"{name} was not set" for name in now if name not in before]
        wrong += [f"{name} is not set any more" for name in before if name not in self.files]
        return wrong + [
            f"{name} has another content" for name in now if before.get(name) not in (None, UNKNOWN, now[name])
        ]

    def _other_clips(self) -> list[str]:
        """How the clips differ from those of the run, as a list of one or no sentence."""
        before = contents(self.path / CLIPS)
        if self.index is None or not before:
            return []
        now = [(clip.key, clip.shard) for clip in self.index.clips]
        if before == now:
            return []
        had, has = ({key for key, _ in clips} for clips in (before, now))
        gone, added = len(had - has), len(has - had)
        if not gone and not added:
            return ["the clips are the same, in another order or in other shards"]
        reasons = [f"{clip.path} {clip.reason}" for clip in self.index.rejected[:1]] if gone else []
        return [f"the clips are others ({', '.join([f'{gone} are gone', f'{added} are new', *reasons])})"]

    def _stored(self) -> RunRecord | None:
        """The folder's record; that of an earlier version follows from its configuration. None if neither can be read."""
        try:
            stored = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
            return RunRecord(stored["settings"], stored["files"], stored["changes"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with suppress(ValueError):  # settings that this version does not know
            before = flat(load(self.path / CONFIG, type(self.run)))
            files = {name: before[name] for name in self.files if before.get(name)}
            unknown = {name: UNKNOWN for name in self.files if before.get(name, "not a setting")}
            return RunRecord(before, unknown | hashes(files))
        return None

    def _hold(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._acquire()
            if self.fresh and self._has_run():
                self._move_aside()
            with atomic_write(self.path / HOLDER) as partial:
                partial.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}), encoding="utf-8")
        except (OSError, ValueError) as error:
            self._depth = 0
            self._lock.release(force=True)
            if isinstance(error, OSError):
                raise unwritable(self.path, error) from error
            raise
        self.fresh = False

    def _acquire(self) -> None:
        """Lock the folder; if the process that held it is dead, its workers are given time to end."""
        holder = self._holder()
        is_dead = bool(holder) and not process_lives(holder["host"], holder["pid"])
        try:
            self._lock.acquire(timeout=DEAD_HOLDER_SEC if is_dead else 0)
        except Timeout:
            who = f" (process {holder['pid']} on {holder['host']})" if holder else ""
            raise ValueError(
                f"Another training{who} uses {self.path}: wait until it ends, stop it, or choose another"
                " data.train_output_dir."
            ) from None

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads((self.path / HOLDER).read_text(encoding="utf-8"))
            return {"host": str(holder["host"]), "pid": int(holder["pid"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _move_aside(self) -> None:
        """Rename the folder that holds an earlier run, and lock a new one; a link to it then leads to the new one."""
        place = self.path.resolve()
        aside = place.with_name(f"{place.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self._lock.release()
        replace_file(place, aside)
        place.mkdir()
        self._lock.acquire()
        log.info(f"The earlier run is now {aside}.")

    def _release(self) -> None:
        self._depth -= 1
        if not self._depth:
            with suppress(OSError):  # a leftover does no harm: its process is looked for
                (self.path / HOLDER).unlink()
            self._lock.release()

    def _write(self) -> None:
        stored = {"version": __version__, **vars(self.record)}
        texts = {RECORD: json.dumps(stored, indent=1) + "\n", CONFIG: to_yaml(self.run)}
        try:
            for name, text in texts.items():
                with atomic_write(self.path / name) as partial:
                    partial.write_text(text, encoding="utf-8")
            if self.index is not None:
                write_index(self.index, self.path / CLIPS)
        except OSError as error:
            raise unwritable(self.path, error) from error


def unwritable(path: Path, error: OSError) -> ValueError:
    """The error of a run folder that cannot be written."""
    return ValueError(f"The folder {path} cannot be written ({error.strerror}): choose another data.train_output_dir.")


def hashes(files: Mapping[str, Path | str]) -> dict[str, str]:
    """Hashes of the content of files, or folders of files, by the same names; without those that do not exist."""
    return {name: network_key(path) for name, path in files.items() if Path(path).exists()}


def may_change(name: str) -> bool:
    """Whether a resumed training may change a setting."""
    return any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_CHANGE)


def difference(name: str, pair: list[Any]) -> str:
    """A changed setting in words: `train.max_steps was 4 and is 6`."""
    before, now = ("not set" if value is None else value for value in pair)
    return f"{name} was {before} and is {now}"
