"""Lip-sync a video through a running app: python docs/api_client.py VIDEO SOUND RESULT [--url URL] [--preset fast].

Needs only `pip install gradio_client`, on any machine that can reach the app.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

POLL_SEC = 1.0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--user", nargs=2, metavar=("NAME", "PASSWORD"), help="if the app requires a login")
    parser.add_argument("--preset", default="balanced", choices=["turbo", "fast", "balanced", "quality"])
    parser.add_argument("--kind", default="run", choices=["run", "preview", "preflight"])
    return parser.parse_args(argv)


def wait_for(client: Client, job_id: str) -> dict:
    """Wait until a job has ended and return its last status; Ctrl+C cancels the job."""
    try:
        while True:
            status = client.predict(job_id, api_name="/status")
            if status["state"] not in ("waiting", "running"):
                return status
            left = "" if status["left_sec"] is None else f", {status['left_sec']:.0f} s left"
            print(f"{status['state']}: {status['stage']} {status['frames_done']}/{status['frames']}{left}")
            time.sleep(POLL_SEC)
    except KeyboardInterrupt:
        return client.predict(job_id, api_name="/cancel")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    login = tuple(args.user) if args.user else None
    with tempfile.TemporaryDirectory() as folder:
        client = Client(args.url, auth=login, download_files=folder, verbose=False)
        try:
            job_id = client.predict(
                video=handle_file(args.video),
                audio=handle_file(args.sound),
                kind=args.kind,
                preset=args.preset,
                api_name="/submit",
            )
            status = wait_for(client, job_id)
            if status["state"] != "done":
                print(f"{status['state']}: {status['error']}", file=sys.stderr)
                return 1
            result, report = client.predict(job_id, api_name="/fetch")
        except AppError as error:
            print(error, file=sys.stderr)
            return 2
        shutil.copyfile(result, args.result)
        shutil.copyfile(report, args.result.with_suffix(".report.json"))
    print(f"{args.result}: {status['summary']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
