"""The nodes: load models, lip-sync a video, lip-sync a batch of images. They convert types; `LipsyncPipeline` does the work.

Legend: b frames, h w height and width, c channels, n samples.
"""

import json
import tempfile
import uuid
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import comfy.model_management as memory
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, io

from latentsync.face.detection.detector import DEFAULT_DETECTOR
from latentsync.inference.model_files import DEMO_UNET, distilled_companion
from latentsync.inference.pipeline import LipsyncPipeline
from latentsync.inference.settings import DEFAULT_SEED, PRESETS, JobOptions, Silence, needs_distilled
from latentsync.media.sound.read import read_audio
from latentsync.precision import PRECISIONS

FOLDER = "latentsync"  # of ComfyUI's models folder
DEMO = "demo (drawn heads)"
OWN_PRESET = "as the model recommends"
CATEGORY = "video/lip sync"
REFERENCE_FRAMES = 16
FULL_SCALE = 32767
Pipelines = io.Custom("LATENTSYNC_PIPELINE")

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


class LoadedModels:
    """The pipelines of one U-Net: its own, and that of its distilled form, each loaded when it is first needed."""

    def __init__(self, unet: Path, precision: Any):
        self.unet, self.precision = unet, precision
        self.pipelines: dict[Path, LipsyncPipeline] = {}

    def pipeline(self, entries: Mapping[str, Any]) -> LipsyncPipeline:
        """The pipeline for settings of these entries."""
        path = distilled_companion(self.unet) if needs_distilled(entries) else self.unet
        if path not in self.pipelines:
            memory.unload_all_models()  # of other nodes, which ComfyUI loads again when they are needed
            detector = DEFAULT_DETECTOR if self.unet == DEMO_UNET else "face_alignment"
            self.pipelines[path] = LipsyncPipeline.from_pretrained(
                path, detector=detector, device=memory.get_torch_device(), precision=self.precision
            )
        return self.pipelines[path]


class LatentSyncLoader(io.ComfyNode):
    """Chooses a U-Net; the networks that belong to it are beside it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentSyncLoader",
            display_name="Load LatentSync",
            category=CATEGORY,
            inputs=[
                io.Combo.Input("model", options=[*folder_paths.get_filename_list(FOLDER), DEMO]),
                io.Combo.Input("precision", options=list(PRECISIONS), default="auto"),
            ],
            outputs=[Pipelines.Output("pipeline", display_name="pipeline")],
        )

    @classmethod
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        path = DEMO_UNET if model == DEMO else Path(folder_paths.get_full_path_or_raise(FOLDER, model))
        return io.NodeOutput(LoadedModels(path, precision))


def lip_inputs() -> list[Any]:
    """The inputs that both lip-sync nodes have beside picture and sound."""
    return [
        io.Combo.Input("preset", options=[OWN_PRESET, *PRESETS], default=OWN_PRESET),
        io.Int.Input("seed", default=DEFAULT_SEED, min=0, max=2**31 - 1, control_after_generate=True),
        io.Combo.Input(
            "silence", options=list(get_args(Silence)), default="model", tooltip="lips in pauses of the audio"
        ),
        io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip="how far lips open"),
    ]


def entries_of(preset: str, **lips: Any) -> dict[str, Any]:
    """Entries for `InferenceSettings.changed`, from the values of `lip_inputs`."""
    return lips if preset == OWN_PRESET else {"preset": preset, **lips}


class LatentSyncVideo(io.ComfyNode):
    """A video with lips that speak the audio: the frames and times of the video, and the audio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentSyncVideo",
            display_name="LatentSync Lip Sync",
            category=CATEGORY,
            inputs=[
                Pipelines.Input("pipeline"),
                io.Video.Input("video"),
                io.Audio.Input("audio"),
                *lip_inputs(),
                io.String.Input(
                    "face", default="largest", tooltip="whose lips: largest, center, a number from the left, ..."
                ),
            ],
            outputs=[
                io.Video.Output("synced_video", display_name="video"),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: LoadedModels,
        video: Any,
        audio: Mapping[str, Any],
        face: str,
        **lips: Any,
    ) -> io.NodeOutput:
        entries = entries_of(**lips)
        loaded = pipeline.pipeline(entries)
        output = Path(folder_paths.get_temp_directory()) / f"latentsync_{uuid.uuid4().hex}.mp4"
        output.parent.mkdir(parents=True, exist_ok=True)
        options = JobOptions(face=face, length="cut", rest="keep")  # as many frames as the video has
        with tempfile.TemporaryDirectory() as folder:
            source, sound = file_of(video, Path(folder)), Path(folder) / "audio.wav"
            write_sound(sound, audio)
            settings = loaded.models.defaults.changed(entries)
            report = loaded(source, sound, output, settings, options, Progress(), Path(folder) / "job")
        return io.NodeOutput(InputImpl.VideoFromFile(str(output)), json.dumps(report.to_dict(), indent=1))


class LatentSyncImages(io.ComfyNode):
    """A batch of images, frames of one take, with lips that speak the audio, and where they were changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentSyncImages",
            display_name="LatentSync Lip Sync (Images)",
            category=CATEGORY,
            inputs=[
                Pipelines.Input("pipeline"),
                io.Image.Input("images"),
                io.Audio.Input("audio"),
                io.Float.Input("fps", default=25.0, min=1.0, max=240.0, step=0.001),
                *lip_inputs(),
            ],
            outputs=[
                io.Image.Output("synced_images", display_name="images"),
                io.Mask.Output("changed", display_name="changed"),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: LoadedModels,
        images: torch.Tensor,
        audio: Mapping[str, Any],
        fps: float,
        **lips: Any,
    ) -> io.NodeOutput:
        entries = entries_of(**lips)
        loaded = pipeline.pipeline(entries)
        frames = (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()  # b h w 3
        settings = loaded.models.defaults.changed(entries)
        stream = loaded.stream(waveform_of(audio), fps, settings, reference_frames=list(frames[:REFERENCE_FRAMES]))
        progress, done = Progress(), []
        for index, frame in enumerate(frames):
            progress("", index, len(frames))
            done += [each.frame for each in stream.push(frame)]
        done += [each.frame for each in stream.flush()]
        changed = np.stack([(new != old).any(axis=-1) for new, old in zip(done, frames, strict=True)])
        new = torch.from_numpy(np.stack(done)).float() / 255
        is_new = torch.from_numpy(changed)
        kept = torch.where(is_new[..., None], new, images[..., :3].cpu().float())  # untouched pixels keep every bit
        return io.NodeOutput(kept, is_new.float())


class Progress:
    """Shows the progress of a run on its node, and stops the run when the user interrupts it."""

    def __init__(self) -> None:
        self.stage, self.bar = "", comfy.utils.ProgressBar(1)

    def __call__(self, stage: str, done: int, total: int) -> None:
        memory.throw_exception_if_processing_interrupted()
        if stage != self.stage:
            self.stage, self.bar = stage, comfy.utils.ProgressBar(max(1, total))
        self.bar.update_absolute(done, max(1, total))


def file_of(video: Any, folder: Path) -> Path:
    """The video as a file: its own, or one in `folder` where it has none or only a part of it is meant."""
    source = video.get_stream_source()
    is_whole = not any(getattr(video, "get_active_trim_window", lambda: (0.0, 0.0))())
    if isinstance(source, str) and is_whole:
        return Path(source)
    path = folder / "video.mp4"
    video.save_to(str(path))
    return path


def write_sound(path: Path, audio: Mapping[str, Any]) -> None:
    """Write ComfyUI's audio, `waveform` [1, c, n] in [-1, 1], as a WAV file of 16 bits at its own rate."""
    waveform = torch.as_tensor(audio["waveform"])[0].float().cpu().clamp(-1, 1)  # c n
    samples = (waveform.T * FULL_SCALE).round().to(torch.int16).contiguous().numpy()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(waveform))
        file.setsampwidth(2)
        file.setframerate(int(audio["sample_rate"]))
        file.writeframes(samples.tobytes())


def waveform_of(audio: Mapping[str, Any]) -> np.ndarray:
    """ComfyUI's audio as float32 [n] at the models' rate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio.wav"
        write_sound(path, audio)
        return read_audio(path)
