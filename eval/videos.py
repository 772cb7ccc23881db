"""Input videos of a command from files, folders and lists, and the partner of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Pair:
    """A video and its partner; None if there is none."""

    video: Path
    truth: Path | None


def find_videos(given: Sequence[Path]) -> list[Path]:
    """Files, the videos in folders (recursively, sorted), and the paths in lists (.txt, relative to the list).

    Raises:
        ValueError: a path does not exist, a folder has no video, or a list is empty.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _in_folder(path)
        elif path.suffix == LIST_SUFFIX and path.is_file():
            found += _in_list(path)
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f"{path} does not exist: give video files, folders of them, or lists (.txt, one a line).")
    if not found:
        raise ValueError("No video was given: give files, folders or lists.")
    return list(dict.fromkeys(found))


def pair_up(videos: Sequence[Path], given: Sequence[Path]) -> list[Pair]:
    """Each video with its partner in `given`: by position if both are single files or lists, else by file name.

    Raises:
        ValueError: two partners have the same name, or the lists differ in length.
    """
    if not given:
        return [Pair(video, None) for video in videos]
    partners = find_videos(given)
    if all(_is_ordered(path) for path in given) and len(partners) == len(videos) == 1:
        return [Pair(videos[0], partners[0])]
    if all(path.suffix == LIST_SUFFIX for path in given):
        if len(partners) != len(videos):
            raise ValueError(
                f"The lists name {len(videos)} videos and {len(partners)} partners: give one partner a line."
            )
        return [Pair(video, partner) for video, partner in zip(videos, partners, strict=True)]
    by_name: dict[str, Path] = {}
    for partner in partners:
        if partner.stem in by_name:
            raise ValueError(
                f"{by_name[partner.stem]} and {partner} have the same name: use lists (.txt) to pair them."
            )
        by_name[partner.stem] = partner
    return [Pair(video, by_name.get(video.stem)) for video in videos]


def _is_ordered(path: Path) -> bool:
    return path.suffix == LIST_SUFFIX or not path.is_dir()


def _in_folder(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"{folder} contains no video ({', '.join(sorted(SUFFIXES))}): check the path.")
    return found


def _in_list(path: Path) -> list[Path]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    named = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not named:
        raise ValueError(f"{path} is an empty list: write one path per line.")
    return named
