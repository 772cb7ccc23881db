"""Several users of the web app at once, with the demo models: whether each gets their own result, and whether memory grows.

python -m benchmarks.web_users [--users 5] [--rounds 3] [--out web_users.json]

The first round warms up; memory after each later round is compared with that after the first.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

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
from web.settings import EXAMPLES, AppSettings

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


def use(url: str, folder: Path, pair: tuple[Path, Path], frames: int) -> bool:
    """Submit a job as one user and return whether the result is theirs, by file name, seed and number of frames."""
    client = Client(url, download_files=str(folder), verbose=False)
    files = {"video": handle_file(pair[0]), "audio": handle_file(pair[1])}
    job_id = client.predict(**files, preset="fast", model="demo", seed=frames, api_name="/submit")
    while (status := client.predict(job_id, api_name="/status"))["state"] in ("waiting", "running"):
        time.sleep(0.5)
    assert status["state"] == "done", status
    video, report_path = client.predict(job_id, api_name="/fetch")
    facts = json.loads(Path(report_path).read_text(encoding="utf-8"))
    client.close()
    theirs = facts["video"] == pair[0].name and facts["settings"]["seed"] == frames
    return theirs and probe(video).frame_count == frames


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
        with Server(Models.standard(), AppSettings(folder / "app", port=None)) as server:
            for number in range(args.rounds):
                begun = time.perf_counter()
                with ThreadPoolExecutor(args.users) as pool:
                    visits = [
                        pool.submit(use, server.url, folder, *visit) for visit in zip(pairs, lengths, strict=True)
                    ]
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
