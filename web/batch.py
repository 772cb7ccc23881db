"""Several videos at once, from the page: which audio belongs to which video, or what a list of jobs says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentsync.inference.batch import JobEntry, read_jobs
from web import texts
from web.app import Draft
from web.errors import WebError
from web.files import plain_stem
from web.orders import Wish
from web.sentences import plain

MOST_JOBS = 100


def drafts_of(wish: Wish, videos: Sequence[Path], audios: Sequence[Path], listed: Path | None = None) -> list[Draft]:
    """The requests for uploaded files; `wish` has the settings for all of them.

    WebError or ValueError if it is not clear which files belong together. `listed`: a list of jobs as the command line takes it,
    whose files are named as those uploaded; a job with settings of its own has these only.
    """
    if listed is not None:
        drafts = [draft_of(entry, wish, named(videos), named(audios)) for entry in entries_of(listed)]
    else:
        drafts = [Draft(wish, *pair, (pair[0].name, pair[1].name)) for pair in pairs(videos, audios)]
    if len(drafts) > MOST_JOBS:
        raise WebError(texts.LONG_LIST.format(count=len(drafts), limit=MOST_JOBS))
    return drafts


def pairs(videos: Sequence[Path], audios: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each video with its audio: one for all, or the one of the same name, or one for each in the order of the files."""
    if not videos or not audios:
        raise WebError(texts.NEED_LISTS)
    if len(audios) == 1:
        return [(video, audios[0]) for video in videos]
    stems: Mapping[str, Path] = {path.stem: path for path in audios}
    if len(stems) == len(audios) and all(video.stem in stems for video in videos):
        return [(video, stems[video.stem]) for video in videos]
    if len(videos) != len(audios):
        raise WebError(texts.UNEQUAL_LISTS.format(videos=len(videos), audios=len(audios)))
    return list(zip(videos, audios, strict=True))


def entries_of(listed: Path) -> list[JobEntry]:
    """The entries of an uploaded list; ValueError if it is wrong."""
    try:
        return read_jobs(listed)
    except ValueError as error:
        raise WebError(plain(str(error), {str(listed): listed.name})) from error


def named(files: Sequence[Path]) -> dict[str, Path]:
    return {comparable(path): path for path in files}


def comparable(path: Path) -> str:
    """A file's name without what an upload changes in it."""
    return f"{plain_stem(path.name)}{path.suffix}".lower()


def draft_of(entry: JobEntry, wish: Wish, videos: Mapping[str, Path], audios: Mapping[str, Path]) -> Draft:
    """The request of an entry of a list; WebError if one of its files was not uploaded. Its output gives the result's name."""
    files = [among.get(comparable(path)) for among, path in ((videos, entry.video), (audios, entry.audio))]
    for path, found in zip((entry.video, entry.audio), files, strict=True):
        if found is None:
            raise WebError(texts.NOT_UPLOADED.format(number=entry.number, name=path.name))
    video, audio = (path for path in files if path is not None)
    settings: Mapping[str, Any] = entry.settings or wish.settings
    own = replace(wish, settings=settings, options={**wish.options, **entry.options})
    return Draft(own, video, audio, (f"{entry.output.stem}{video.suffix}", audio.name))
