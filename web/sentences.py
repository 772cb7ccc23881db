"""Text for users: errors of the library in the words of the page, readable durations and sizes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.places import HOME, SHIPPED
from web import texts

if TYPE_CHECKING:
    from web.jobs import WebJob

# folders before a file's name; quoted words are a client's own
FOLDERS = re.compile(r"(?<![\w/.:'\\])(?:[A-Za-z]:)?(?:[/\\][^\s/\\]+)+[/\\](?=[^\s/\\])")

OPTION = re.compile(r"--(\w+)")


def page_sentence(error: BaseException, job: WebJob) -> str:
    """An error message with the user's own file names and the words of the page or the API, without paths of the server."""
    places = {job.order.video: job.names[0], job.order.audio: job.names[1], job.output: job.output.name}
    names = {str(path): name for path, name in places.items()} | {str(job.folder): "the job"}
    if job.is_of_api:  # its fields are called like options of the command line
        return without_folders(OPTION.sub(r"\1", named(str(error), names)))
    return without_folders(plain(str(error), names))


def named(sentence: str, names: dict[str, str]) -> str:
    """A sentence with paths replaced by names."""
    for path, name in names.items():
        sentence = sentence.replace(path, name)
    return sentence


def plain(sentence: str, names: dict[str, str]) -> str:
    """A sentence with paths replaced by names, and options of the command line by the words of the page."""
    sentence = named(sentence, names)
    for words, ours in texts.PAGE_WORDS.items():
        sentence = sentence.replace(words, ours)
    return sentence


def audio_words(sentence: str) -> str:
    """A sentence of a report in the page's vocabulary, which says audio where the engine also says sound."""
    return re.sub(r"\b([Ss])ound\b(?!\.)", lambda found: "Audio" if found[1] == "S" else "audio", sentence)


def without_folders(sentence: str) -> str:
    """A sentence in which absolute paths of the server are shortened to file names, and those of the project to relative ones."""
    for folder in (HOME, SHIPPED, Path.home()):
        sentence = sentence.replace(f"{folder}{os.sep}", "")
    return FOLDERS.sub("", sentence)


def amount(count: int, words: tuple[str, str, str]) -> str:
    """The text of `words` for no, one or `count` things."""
    return words[min(count, 2)].format(count=count)


def duration(seconds: float) -> str:
    """A readable duration: 3.2 s, 4 min 5 s, 2 h 30 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 and seconds % 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(number_of_bytes: float) -> str:
    """A readable size: 12 kB, 340 MB, 2 GB (decimal)."""
    for unit in ("bytes", "kB", "MB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.3g} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:.3g} GB"
