"""Speed and quality of presets: `python -m benchmarks.presets [--quick] [--clips 3] [--out FILE.json] [--plot docs/presets.png]`.

Held-out drawn people are lip-synced to the audio of others with the demo models (or --unet). Every way of sampling is compared
with a DDIM solution of many steps from the same noise: root mean square difference of the latents, and of the pixels in the
generated region. `new sound`: correlation of the lip opening with the truth of the new audio. `sync`: similarity by the demo
SyncNet. `jitter`: acceleration of the opening, in face heights per frame squared. `s a window`: median wall time to encode,
sample and decode a window. `cpu s`: its processor time, which with `--threads 1` is the number that other programs disturb
least. The ways alternate window by window, so that varying load affects all of them alike.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from benchmarks.table import report
from latentsync.audio.sync_mel import sync_mel, sync_mel_window
from latentsync.audio.whisper_features import WhisperFeatures
from latentsync.audio.windows import training_windows
from latentsync.avatar.clip import read_openings
from latentsync.data.aligned import align_clip
from latentsync.data.clips import TrainingClip, index_clips
from latentsync.data.frames import FrameMemory
from latentsync.device import Precision
from latentsync.face.detection.detector import make_detector
from latentsync.face.pixels import pixels_to_frames
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.models import LipsyncModels
from latentsync.inference.settings import PRESETS, InferenceSettings, precision_of
from latentsync.inference.timing import Stopwatch
from latentsync.inference.windows.sampler import Window, WindowSampler
from latentsync.losses.sync import SyncLoss
from latentsync.metrics.lips.aperture import correlation
from latentsync.metrics.lips.mesh_height import read_lips
from latentsync.metrics.lips.motion import jitter
from latentsync.models.frozen import Frozen
from latentsync.models.syncnet import load_syncnet
from latentsync.testing import held_out_clips
from latentsync.weights import DEMO
from scripts.command import run_command

REFERENCE_STEPS, QUICK_REFERENCE_STEPS = 200, 50
SWEEP: tuple[dict[str, Any], ...] = (
    *({"solver": "ddim", "steps": steps} for steps in (20, 10, 5)),
    *({"solver": solver, "steps": steps} for solver in ("dpm++", "unipc") for steps in (10, 8, 6, 5, 4, 3)),
    *({"solver": "unipc", "steps": 6, "guidance_interval": interval} for interval in ((0, 0.5), (0.3, 1), (0.2, 0.7))),
    *({"solver": "unipc", "steps": steps, "guidance_scale": 1.0} for steps in (6, 4, 3)),
)
DEEPCACHE: tuple[dict[str, Any], ...] = tuple(
    {"solver": "ddim", "steps": 20, "deepcache_interval": interval} for interval in (2, 3, 5)
)
QUICK_SWEEP: tuple[dict[str, Any], ...] = (
    {"solver": "ddim", "steps": 5},
    *({"solver": solver, "steps": steps} for solver in ("dpm++", "unipc") for steps in (12, 8, 6, 4)),
    {"solver": "unipc", "steps": 4, "guidance_interval": (0, 0.5)},
    {"solver": "unipc", "steps": 4, "guidance_scale": 1.0},
)

PLOT_COLOURS = {"ddim": "tab:blue", "dpm++": "tab:orange", "unipc": "tab:green", "lcm": "tab:red"}
DEEPCACHE_MARKER = "x"
PLOT_TITLES = ("Distance to a long DDIM solution, pixels (rms)", "Lip opening: correlation with the new sound")


@dataclass(frozen=True)
class Case:
    """Windows of one video with the audio of another."""

    windows: list[Window]
    truth: np.ndarray  # [t], lip opening in the clip of the new audio
    mels: list[Tensor]  # [1, 1, 80, n] for each window


def case_of(video: TrainingClip, audio: TrainingClip, sampler: WindowSampler, windows: int) -> Case:
    """The first windows; the reference frames are the video's last window, another moment as in training."""
    models = sampler.models
    count, memory = models.num_frames, FrameMemory(models.resolution, limit_bytes=0)
    windows = min(windows, video.frames // count - 1, audio.frames // count)
    waveform = torch.from_numpy(audio.waveform())
    features, mel = WhisperFeatures(models.audio_encoder).features(waveform).float(), sync_mel(waveform)
    reference = sampler.encode_window(memory.frames(video, video.frames - count, video.frames).numpy())
    starts = [index * count for index in range(windows)]
    made = [
        Window(memory.frames(video, at, at + count).numpy(), training_windows(features, at, count), reference)
        for at in starts
    ]
    truth = read_openings(audio.path)[: windows * count]
    return Case(made, truth, [sync_mel_window(mel, at, count)[None, None] for at in starts])


class Way:
    """Samples windows with one choice of settings and stores results and times."""

    def __init__(self, models: LipsyncModels, settings: InferenceSettings):
        self.sampler, self.settings = WindowSampler(models, settings, Stopwatch()), settings
        self.latents: list[Tensor] = []
        self.pixels: list[list[Tensor]] = []  # one list for each case
        self.seconds: list[tuple[float, float]] = []  # of each window: wall time, processor time
        solve = self.sampler.latents.solve

        def noted(*args: Any, **kwargs: Any) -> Tensor:
            self.latents.append(solve(*args, **kwargs))
            return self.latents[-1]

        self.sampler.latents.solve = noted  # stores the sampled latents too

    def sample(self, window: Window) -> None:
        """Sample the next window of the last case."""
        begun = time.perf_counter(), time.process_time()
        self.pixels[-1].append(self.sampler.sample([window])[0].faces)
        self.seconds.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))

    def row(self, name: str, cases: Sequence[Case], right: "Way", judge: SyncLoss | None) -> dict[str, Any]:
        lips = [read_lips(pixels_to_frames(torch.cat(clip)).numpy()) for clip in self.pixels]
        pairs = [
            pair for case, clip in zip(cases, self.pixels, strict=True) for pair in zip(clip, case.mels, strict=True)
        ]
        synced = [similarity(judge, *pair) for pair in pairs] if judge else []
        generated = self.sampler.mask < 0.5
        chosen = self.settings
        return {
            "way": name,
            "solver": chosen.solver,
            "steps": chosen.steps,
            "guidance": chosen.guidance_scale,
            "from to": "{} {}".format(*chosen.guidance_interval),
            "deepcache": chosen.deepcache_interval,
            "vae": chosen.vae,
            "precision": str(self.sampler.dtype).removeprefix("torch."),
            "latents": distance(self.latents, right.latents),
            "pixels": distance([p[..., generated] for c in self.pixels for p in c], right.lower(generated)),
            "new sound": round(float(np.mean([correlation(a, c.truth) for a, c in zip(lips, cases, strict=True)])), 4),
            "sync": round(float(np.mean(synced)), 4) if synced else None,
            "jitter": round(float(np.mean([jitter(each) for each in lips])), 5),
            "s a window": round(median(clock for clock, _ in self.seconds), 3),
            "cpu s": round(median(processor for _, processor in self.seconds), 3),
        }

    def lower(self, generated: Tensor) -> list[Tensor]:
        return [pixels[..., generated] for clip in self.pixels for pixels in clip]


@torch.no_grad()
def similarity(judge: SyncLoss, pixels: Tensor, mel: Tensor) -> float:
    """Similarity of lips [f, 3, r, r] and audio, 0 ... 1."""
    return float(judge.similarity(rearrange(pixels, "f c h w -> 1 c f h w"), None, mel))


def distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Root mean square difference."""
    return round(
        float(torch.cat([(a - b).flatten() for a, b in zip(first, second, strict=True)]).square().mean().sqrt()), 4
    )


def cases_of(args: argparse.Namespace, sampler: WindowSampler, folder: Path) -> list[Case]:
    """Held-out drawn people, each with the audio of the next one."""
    drawn = held_out_clips(max(2, args.clips), folder)
    resolution = sampler.models.resolution
    aligned = [align_clip(video, folder / "aligned" / video.name, make_detector(), resolution) for video in drawn]
    for video, made in zip(drawn, aligned, strict=True):
        made.with_suffix(".json").write_text(video.with_suffix(".json").read_text(encoding="utf-8"), encoding="utf-8")
    clips = index_clips(aligned, 1, folder / "cache").clips
    return [case_of(clips[i], clips[(i + 1) % len(clips)], sampler, args.windows) for i in range(args.clips)]


def chosen_ways(args: argparse.Namespace, defaults: InferenceSettings) -> dict[str, InferenceSettings]:
    """The presets, the two fastest also with the full auto-encoder in float32, and the sweep."""
    found = {name: defaults.changed({"preset": name}) for name in PRESETS}
    found |= {f"{name}, full, fp32": found[name].changed({"vae": "full"}) for name in ("fast", "turbo")}
    full = {"guidance_scale": 1.5, "guidance_interval": (0.0, 1.0), "vae": "full"}
    for entries in (*(QUICK_SWEEP if args.quick else SWEEP), *DEEPCACHE):
        found[f"sweep {len(found)}"] = defaults.changed({**full, **entries})
    return found


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for every way whose weights are installed; the first is the long DDIM solution."""
    load = cache(lambda path, precision: LipsyncModels.load(path, precision=precision))
    teacher = load(args.unet, "fp32")
    cases = cases_of(args, WindowSampler(teacher, teacher.defaults, Stopwatch()), folder)
    steps = QUICK_REFERENCE_STEPS if args.quick else REFERENCE_STEPS
    quality = teacher.defaults.changed({"preset": "quality"})
    right = Way(teacher, quality.changed({"steps": steps}))
    ways = {f"DDIM {steps}": right, **dict(possible_ways(args, chosen_ways(args, teacher.defaults), load))}
    for number, case in enumerate(cases, 1):
        for way in ways.values():
            way.pixels.append([])
        for window in case.windows:
            for way in ways.values():
                way.sample(window)
        print(f"sampled: {number} of {len(cases)} videos", flush=True)
    judge = load_judge()
    return [way.row(name, cases, right, judge) for name, way in ways.items()]


def possible_ways(
    args: argparse.Namespace, chosen: Mapping[str, InferenceSettings], load: Callable[[Path, Precision], LipsyncModels]
) -> Iterator[tuple[str, Way]]:
    """The chosen ways whose weights are installed, by name; prints the others."""
    student_path = args.distilled or distilled_companion(args.unet)
    for name, settings in chosen.items():
        path = student_path if settings.needs_distilled_weights else args.unet
        models = load(path, precision_of(settings.preset) if name in PRESETS else "fp32")
        try:
            yield name, Way(models, settings)
        except ValueError as error:
            print(f"left out {name}: {error}")


def load_judge() -> SyncLoss | None:
    """The demo SyncNet; None if it is not installed."""
    path = DEMO / "syncnet.safetensors"
    if not path.is_file():
        return None
    net, metadata = load_syncnet(path)
    return SyncLoss(Frozen(net), metadata["resolution"], sees_latents=False, lower_half=True)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: distance to the long solution and correlation of the lips by seconds per window; presets are labelled."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, measure, title in zip(axes, ("pixels", "new sound"), PLOT_TITLES, strict=True):
        for row in rows[1:]:
            is_preset = not row["way"].startswith("sweep")
            at = row["s a window"], row[measure]
            marker = DEEPCACHE_MARKER if row["deepcache"] > 1 else "o"
            colour, size = PLOT_COLOURS[row["solver"]], 60 if is_preset else 16
            axis.scatter(*at, s=size, marker=marker, color=colour, zorder=3 if is_preset else 2)
            if is_preset:
                axis.annotate(row["way"], at, xytext=(5, 5), textcoords="offset points", fontsize=9)
        axis.set(xscale="log", xlabel="seconds a window", title=title)
        axis.grid(alpha=0.3)
    for solver, colour in PLOT_COLOURS.items():
        axes[0].scatter([], [], color=colour, label=solver)
    axes[0].scatter([], [], color=PLOT_COLOURS["ddim"], marker=DEEPCACHE_MARKER, s=16, label="ddim with DeepCache")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unet", type=Path, default=DEMO_UNET)
    parser.add_argument("--distilled", type=Path, help="default: NAME_turbo.safetensors beside the U-Net")
    parser.add_argument("--quick", action="store_true", help="fewer ways, and a solution of fewer steps")
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--windows", type=int, default=2, help="of each clip, at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    return parser.parse_args(argv)


def bench(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(args, Path(temporary))
    settings = {name: getattr(args, name) for name in ("quick", "clips", "windows", "threads")}
    report("presets", rows, args.out, **settings)
    if args.plot:
        draw(rows, args.plot)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command("presets", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
