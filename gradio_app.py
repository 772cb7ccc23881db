"""The web app, for this computer's browser only: `python gradio_app.py [--port 7860] [--demo]`."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from latentsync.inference.job import check_job
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.weights import FETCH_INFERENCE, PUBLIC_UNET
from scripts.inference import load_pipeline

DEMO_NOTE = (
    "These are the small **demo models**, which know drawn heads only: on real people the lips will not look right. "
    f"For the official weights run `{FETCH_INFERENCE}` and start the app again."
)
OFFICIAL_NOTE = f"Models: the official weights, `{PUBLIC_UNET.name}`."


class App:
    """One pipeline, loaded once, and the page around it."""

    def __init__(self, pipeline: LipsyncPipeline, demo: bool, folder: Path):
        self.pipeline, self.demo, self.folder = pipeline, demo, folder

    def lipsync(
        self,
        video: str | None,
        audio: str | None,
        steps: float,
        guidance_scale: float,
        seed: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio finds out that it is wanted)
    ) -> tuple[str, str]:
        """The result's path and what to say about it."""
        if not video or not audio:
            raise gr.Error("Give both a video and an audio file.", print_exception=False)
        output = Path(tempfile.mkdtemp(dir=self.folder)) / "video_out.mp4"
        try:
            chosen = {"steps": int(steps), "guidance_scale": guidance_scale, "seed": int(seed)}
            settings = self.pipeline.models.defaults.changed(chosen)
            job = check_job(video, audio, output)
            report = self.pipeline.run(job, settings, lambda stage, *done: progress(done, desc=stage, unit="frames"))
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        return str(output), f"{report.summary()} Seed {report.settings.seed}."

    def page(self) -> gr.Blocks:
        """The page; one run at a time, the others wait."""
        defaults = self.pipeline.models.defaults
        with gr.Blocks(title="LatentSync", analytics_enabled=False) as page:
            gr.Markdown(f"# LatentSync\n{DEMO_NOTE if self.demo else OFFICIAL_NOTE}")
            with gr.Row():
                with gr.Column():
                    inputs: list[Any] = [gr.Video(label="Video"), gr.Audio(label="Audio", type="filepath")]
                    inputs.append(gr.Slider(1, 50, defaults.steps, step=1, label="Sampling steps"))
                    inputs.append(gr.Slider(1, 3, defaults.guidance_scale, step=0.1, label="Guidance scale"))
                    inputs.append(gr.Number(defaults.seed, precision=0, label="Seed (-1: another every time)"))
                    button = gr.Button("Lip-sync", variant="primary")
                with gr.Column():
                    outputs = [gr.Video(label="Result"), gr.Markdown()]
            button.click(self.lipsync, inputs, outputs, concurrency_limit=1)
        return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--demo", action="store_true", help="the demo models, even where the official weights are")
    args = parser.parse_args()
    demo = args.demo or not PUBLIC_UNET.is_file()
    try:
        pipeline = load_pipeline(demo, None, None, None)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="latentsync-") as folder:
        app = App(pipeline, demo, Path(folder))
        app.page().launch(server_name="127.0.0.1", server_port=args.port, allowed_paths=[folder])


if __name__ == "__main__":
    main()
