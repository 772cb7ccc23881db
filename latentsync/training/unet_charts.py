"""A U-Net run's charts, drawn from its log: each loss, and the measures of the validation."""

from pathlib import Path

from latentsync.config.unet_run import LOSSES
from latentsync.training.charts import CurvePanel, curve, read_rows, save_charts

TITLES = {
    "sync": "similarity of lips and sound: sampled, shown silence (the leak), the truth",
    "psnr_db": "PSNR in the generated region, dB",
    "lpips": "LPIPS of the lower half",
    "silent_motion": "movement of lips that are shown silence, as a share of the truth's",
    "score": "score: the best checkpoint has the greatest",
}
SYNC_CURVES = ("sync", "silent_sync", "sync_truth")


def draw_unet_charts(folder: Path) -> None:
    """Write `losses.png` and `validation.png` into a run's folder."""
    rows, validation = read_rows(folder / "log.jsonl"), read_rows(folder / "validation.jsonl")
    named = {name: curve(rows, name) for name in LOSSES}
    save_charts(folder / "losses.png", [CurvePanel(name, {name: points}) for name, points in named.items() if points])
    panels = []
    for name, title in TITLES.items():
        shown = SYNC_CURVES if name == "sync" else (name,)
        panels.append(CurvePanel(title, {each: curve(validation, each) for each in shown}))
    save_charts(folder / "validation.png", panels)
