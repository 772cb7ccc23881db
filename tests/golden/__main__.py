"""`python -m tests.golden DIR`: run every golden case found in DIR, a line a check.

Exits 1 on a failure or on a case it does not know.
"""

import argparse
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

import tests.golden
from latentsync.device import DTYPES, pick_device
from tests.golden.harness import RUNNERS, TARGET, Check, GoldenCase

DEVICE_CASES = (  # that compute with networks, or with their losses, and so can run on an accelerator and in half precision
    *("denoise", "stable_syncnet", "sync_loss", "trepa", "unet_full", "unet_small", "vae", "videomaev2_full"),
    "wav2lip_syncnet",
)


def load_runners() -> None:
    for module in pkgutil.iter_modules(tests.golden.__path__):
        if module.name.startswith("cases_"):
            importlib.import_module(f"tests.golden.{module.name}")


def find_cases(folder: Path) -> list[GoldenCase]:
    """Every case of a folder by name; arrays that no JSON file describes are a case too, an unknown one."""
    paths = {path.with_suffix(".json") for kind in ("*.json", "*.npz") for path in folder.glob(kind)}
    return [GoldenCase(path) for path in sorted(paths)]


def run_case(case: GoldenCase) -> list[Check]:
    with torch.no_grad(), TARGET.created():
        return list(RUNNERS[case.name](case))


def report(case: GoldenCase) -> Iterator[tuple[str, bool]]:
    """The lines of a case, each with whether it is in order."""
    if case.is_fact:
        yield f"fact: {case.facts['what']}", True
    elif case.name not in RUNNERS or not case.path.exists():
        yield "unknown case FAIL", False
    else:
        try:
            checks = run_case(case)
        except Exception as error:  # one broken case must not hide the others
            traceback.print_exc()
            yield f"{type(error).__name__}: {error} FAIL", False
            return
        for check in checks or [Check("no checks", float("inf"), 0.0)]:
            verdict = "ok" if check.ok else "FAIL"
            yield f"{check.name:48} {check.error:.3g} <= {check.tolerance:.3g} {verdict}", check.ok


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", help="names of cases to run", metavar="NAME")
    parser.add_argument(
        "--device", default="cpu", help="run the cases of networks there (default: every case on the CPU)"
    )
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of the networks (default: fp32)")
    args = parser.parse_args(arguments)
    TARGET.device, TARGET.dtype = pick_device(args.device), DTYPES[args.precision]
    if TARGET.relative_tolerance:
        args.only = args.only or DEVICE_CASES
        torch.backends.cudnn.allow_tf32 = False
    load_runners()
    cases = find_cases(args.folder)
    missing = set(args.only or []) - {case.name for case in cases}
    if missing or not cases:
        parser.error(f"{args.folder} has no case {', '.join(sorted(missing))}".rstrip() + ".")
    failures = 0
    for case in cases:
        if not args.only or case.name in args.only:
            for line, ok in report(case):
                print(f"{case.name:24} {line}", flush=True)
                failures += not ok
    print(f"{failures} failures" if failures else "all ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
