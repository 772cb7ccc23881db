"""Clients of the job API: their tokens, and how many requests they may send."""

import hmac
import re
import time
from collections.abc import Mapping
from pathlib import Path

from web import texts
from web.errors import WebError

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
MIN_TOKEN = 24  # characters
TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{MIN_TOKEN},512}}")
LOCAL = "local"  # the client of this machine's user, if no others are given
TOKEN_FILE = "api.key"  # in the app's folder: that user's token
WINDOW_SEC = 60.0
REMEMBERED = 1000  # keys of a rate limit, before old ones are forgotten


def read_tokens(path: Path) -> dict[str, str]:
    """Tokens of a file, see `parse_tokens`; WebError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WebError(texts.NO_TOKEN_FILE.format(path=path)) from error
    return parse_tokens(text, str(path))


def parse_tokens(text: str, source: str) -> dict[str, str]:
    """Client's name -> token, from entries NAME:TOKEN separated by white space; the rest of a line after # is a remark.

    Raises WebError, with the name of the `source`, for an entry of another form and for a name or token that comes twice.
    """
    entries = [entry for line in text.splitlines() for entry in line.partition("#")[0].split()]
    found: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        name, _, token = entry.partition(":")
        if not NAME.fullmatch(name) or not TOKEN.fullmatch(token):
            raise WebError(texts.WRONG_TOKENS.format(source=source, number=number, length=MIN_TOKEN))
        if name in found or token in found.values():
            raise WebError(texts.TOKEN_TWICE.format(source=source, name=name))
        found[name] = token
    return found


def client_of(authorization: str, tokens: Mapping[str, str]) -> str | None:
    """The name of the client whose token is in a header Authorization; None if there is no such client."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    same = [name for name, token in tokens.items() if hmac.compare_digest(token.encode(), given.strip().encode())]
    return same[0] if same else None


class RateLimit:
    """Counts requests by key in windows of `WINDOW_SEC`."""

    def __init__(self, limit: int):
        self.limit, self.clock = limit, time.monotonic
        self._windows: dict[str, tuple[float, int]] = {}  # key -> end of its window, requests in it

    def take(self, key: str) -> tuple[int, float]:
        """Count a request. Returns how many more are allowed in this window, -1 if this one is not, and the seconds it lasts."""
        now = self.clock()
        if len(self._windows) > REMEMBERED:
            self._windows = {other: window for other, window in self._windows.items() if window[0] > now}
        end, count = self._windows.get(key, (0.0, 0))
        if end <= now:
            end, count = now + WINDOW_SEC, 0
        count = min(count + 1, self.limit + 1)
        self._windows[key] = end, count
        return self.limit - count, end - now
