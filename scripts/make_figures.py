"""Make the images of the documentation: `python -m scripts.make_figures [avatars|occluders|demo|detail|dubbing|pair]`.

avatars: docs/avatars.png, 24 identities. occluders: docs/occluders.png, what may cover the mouth, with its masks.
pair: assets/demo_video.mp4, a held-out person in two shots, and assets/demo_audio.wav, two sentences of another one.
detail: docs/detail.png, a frame of the demo, and its result with decoded and matched colours, then with kept detail.
dubbing: docs/dubbing.png, two people who speak in turn with each other's voices, and what their lips do.
demo: docs/demo.png, the demo's input, result and ground truth: the same head, drawn with the lips of the new audio.
"""

import argparse
import sys
from collections.abc import Sequence

from scripts.command import run_command

USUAL = ("avatars", "occluders", "demo", "detail", "dubbing")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"any of {', '.join(USUAL)}, pair (default: all but pair)")
    args = parser.parse_args(argv)

    def work() -> None:
        from scripts.figures import MAKERS  # imports PyTorch and matplotlib

        for name in args.what or USUAL:
            MAKERS[name]()

    return run_command("make_figures", work)


if __name__ == "__main__":
    sys.exit(main())
