"""Lip-sync a video through a running app: python docs/api_client.py VIDEO AUDIO RESULT --token TOKEN [--url URL] [--preset fast].

Needs only `pip install httpx`, on any machine that can reach the app.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:7860/")
    parser.add_argument("--token", default=os.environ.get("LATENTSYNC_TOKEN", ""), help="default: LATENTSYNC_TOKEN")
    parser.add_argument("--preset", choices=["turbo", "fast", "balanced", "quality"])
    parser.add_argument("--kind", default="run", choices=["run", "preview", "preflight"])
    return parser.parse_args(argv)


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer; RuntimeError with the app's sentence if it is an error."""
    if answer.is_error:
        raise RuntimeError(json.loads(answer.read())["error"]["message"])
    return answer


def follow(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Print a job's progress until it has ended, and return the job; Ctrl+C cancels it."""
    try:
        with client.stream("GET", f"jobs/{job_id}/events") as answer:
            for line in checked(answer).iter_lines():
                if line.startswith("data: "):
                    job = json.loads(line.removeprefix("data: "))
                    print(f"{job['state']}: {job['stage']} {job['frames_done']}/{job['frames']}")
        return job
    except KeyboardInterrupt:
        return checked(client.post(f"jobs/{job_id}/cancel")).json()


def lip_sync(args: argparse.Namespace) -> int:
    """Make a job, follow it, and save its result and report."""
    headers = {"Authorization": f"Bearer {args.token}"}
    with httpx.Client(base_url=f"{args.url.rstrip('/')}/api/v1/", headers=headers, timeout=60) as client:
        values = {"kind": args.kind} | ({"preset": args.preset} if args.preset else {})
        with args.video.open("rb") as video, args.audio.open("rb") as audio:
            job = checked(client.post("jobs", data=values, files={"video": video, "audio": audio})).json()
        job = follow(client, job["id"])
        if job["state"] != "done":
            print(f"{job['state']}: {job['error']}", file=sys.stderr)
            return 1
        args.result.write_bytes(checked(client.get(f"jobs/{job['id']}/result")).content)
        report = checked(client.get(f"jobs/{job['id']}/report")).content
        args.result.with_suffix(".report.json").write_bytes(report)
    print(f"{args.result}: {job['summary']}")
    return 0


def main(argv: list[str] | None = None) -> int:
    try:
        return lip_sync(parse(argv))
    except (OSError, RuntimeError, httpx.HTTPError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
