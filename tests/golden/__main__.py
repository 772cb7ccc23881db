"""`python -m tests.golden DIR`: run every golden case found in DIR, a line each; exit 1 on a failure or an unknown case."""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import torch

import tests.golden
from tests.golden.harness import RUNNERS, Check, GoldenCase


def load_runners() -> None:
    for module in pkgutil.iter_modules(tests.golden.__path__):
        if module.name.startswith("cases_"):
            importlib.import_module(f"tests.golden.{module.name}")


def run_case(case: GoldenCase) -> list[Check]:
    with torch.no_grad():
        return list(RUNNERS[case.name](case))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="names of cases to run")
    args = parser.parse_args()
    load_runners()
    failures = 0
    for path in sorted(args.folder.glob("*.json")):
        case = GoldenCase(path)
        if args.only and case.name not in args.only:
            continue
        if case.name not in RUNNERS:
            print(f"{case.name:24} unknown case FAIL")
            failures += 1
            continue
        for check in run_case(case):
            failures += not check.ok
            print(
                f"{case.name:24} {check.name:48} {check.error:.3g} <= {check.tolerance:.3g} {'ok' if check.ok else 'FAIL'}"
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
