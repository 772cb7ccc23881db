"""Which jobs have expired, so that their owner learns that instead of "no such job"."""

import json
import logging
from contextlib import suppress
from pathlib import Path

from latentsync.files import atomic_write

KEPT_SEC = 30 * 24 * 3600.0
MOST = 10_000
log = logging.getLogger(__name__)


class Expired:
    """Ids of expired jobs and lists with their owners, in a file: the newest ones, for some weeks."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, tuple[str, float]] = {}  # id -> owner, time
        with suppress(OSError, ValueError, TypeError, AttributeError):  # missing or damaged: no more is known
            stored = json.loads(path.read_text(encoding="utf-8"))
            self._known = {name: (str(owner), float(time)) for name, (owner, time) in stored.items()}

    def add(self, ids: list[str], owner: str, now: float) -> None:
        """Record ids that expire now."""
        recent = [entry for entry in self._known.items() if entry[1][1] > now - KEPT_SEC]
        self._known = dict([*recent, *((each, (owner, now)) for each in ids if each)][-MOST:])
        try:
            with atomic_write(self.path) as partial:
                partial.write_text(json.dumps(self._known), encoding="utf-8")
        except OSError:
            log.exception("The expiry of a job could not be recorded")

    def has(self, each: str, owner: str) -> bool:
        """Whether this id was one of the owner's."""
        return self._known.get(each, ("", 0.0))[0] == owner
