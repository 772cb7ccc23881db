"""Several users of the web app at once, with the demo models: whether each gets their own result, and whether memory grows.

python -m benchmarks.web_users [--users 5] [--rounds 3] [--out web_users.json]

The first round warms up; memory after each later round is compared with that after the first.
"""

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from benchmarks.table import report
from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.media.sound.write import write_wav
from latentsync.media.video.read import read_frames
from latentsync.media.video.write import VideoFormat, VideoWriter
from latentsync.timebase import samples_of_frames
from scripts.command import run_command
from web.models import Models
from web.serve import Server
from web.settings import EXAMPLES, ApiSettings, AppSettings

MAX_GROWTH = 0.1
FRAMES = 12  # of the first user's pair; each further user's has one frame more


def rss_mb() -> float:
    """Memory of this process that is in RAM, in megabytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_pair(folder: Path, frames: int) -> tuple[Path, Path]:
    """The first frames of the demo pair."""
    video, audio = folder / f"talk_{frames}.mp4", folder / f"words_{frames}.wav"
    info = probe(EXAMPLES[0].video)
    with VideoWriter(video, VideoFormat.constant(*info.square_size, info.fps)) as writer:
        for shown in islice(read_frames(EXAMPLES[0].video), frames):
            writer.write(shown.frame)
    write_wav(audio, read_audio(EXAMPLES[0].audio)[: samples_of_frames(frames)])
    return video, audio


def use(server: Server, name: str, pair: tuple[Path, Path], frames: int) -> bool:
    """Make a job as one client and return whether the result is theirs, by file name, seed and number of frames."""
    headers = {"authorization": f"Bearer {server.settings.api.tokens[name]}"}
    with httpx.Client(base_url=f"{server.url}api/v1", headers=headers, timeout=60) as client:
        with pair[0].open("rb") as video, pair[1].open("rb") as audio:
            values = {"preset": "fast", "model": "demo", "seed": str(frames)}
            job = client.post("/jobs", data=values, files={"video": video, "audio": audio}).raise_for_status().json()
        while job["state"] in ("waiting", "running"):
            time.sleep(0.5)
            job = client.get(f"/jobs/{job['id']}").raise_for_status().json()
        assert job["state"] == "done", job
        facts = client.get(f"/jobs/{job['id']}/report").raise_for_status().json()
        result = pair[0].with_suffix(".result.mp4")
        result.write_bytes(client.get(f"/jobs/{job['id']}/result").raise_for_status().content)
    theirs = facts["video"] == pair[0].name and facts["settings"]["seed"] == frames
    return theirs and probe(result).frame_count == frames


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = range(FRAMES, FRAMES + args.users)
        pairs = [make_pair(folder, frames) for frames in lengths]
        names = [f"user-{frames}" for frames in lengths]
        api = ApiSettings({name: secrets.token_urlsafe(24) for name in names})
        with Server(Models.standard(), AppSettings(folder / "app", port=None, api=api)) as server:
            for number in range(args.rounds):
                begun = time.perf_counter()
                with ThreadPoolExecutor(args.users) as pool:
                    visits = [pool.submit(use, server, *visit) for visit in zip(names, pairs, lengths, strict=True)]
                    right = sum(visit.result() for visit in visits)
                first_mb = rows[0]["memory_mb"] if rows else rss_mb()
                row = {"round": number, "users": args.users, "own_results": right, "memory_mb": rss_mb()}
                rows.append({**row, "growth": rss_mb() / first_mb - 1, "seconds": time.perf_counter() - begun})
            server.app.engine.unload()
            rows.append({**rows[-1], "round": "unloaded", "memory_mb": rss_mb(), "growth": rss_mb() / first_mb - 1})
    report("web_users", rows, args.out, preset="fast", frames=FRAMES)
    is_right = all(row["own_results"] == args.users and row["growth"] <= MAX_GROWTH for row in rows)
    return 0 if is_right else 1


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("web_users", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
