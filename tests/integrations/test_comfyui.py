"""The node pack for ComfyUI, against stand-ins for its modules: valid nodes, the pipeline's own frames, interrupts."""

import asyncio
import importlib.util
import inspect
import json
import sys
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from latentsync.inference.model_files import DEMO_UNET
from latentsync.inference.settings import InferenceSettings
from latentsync.media.probe import probe
from latentsync.media.sound.read import read_audio
from latentsync.media.video.read import read_frames
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO
from scripts.inference import main as lip_sync
from tests.integrations.comfy_stubs import Bar, Comfy, Interrupted, VideoFromFile, install

PACK = Path(__file__).parents[2] / "integrations/comfyui"
FRAMES, FPS = 12, 25
CHOICES = {"preset": "turbo", "seed": 7, "silence": "model", "strength": 1.0}


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Comfy:
    return install(monkeypatch, tmp_path)


@pytest.fixture
def pack(comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The node pack, imported as ComfyUI does: as a package by its path."""
    spec = importlib.util.spec_from_file_location(
        "latentsync_nodes", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "latentsync_nodes", module)
    monkeypatch.delitem(sys.modules, "latentsync_nodes.nodes", raising=False)
    spec.loader.exec_module(module)
    return module


def nodes_of(pack: ModuleType) -> list[Any]:
    async def listed() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return asyncio.run(listed())


@pytest.fixture
def pipeline(pack: ModuleType) -> Any:
    """What the loader gives for the demo models."""
    return pack.LatentSyncLoader.execute(model=sys.modules["latentsync_nodes.nodes"].DEMO, precision="fp32").result[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the demo video."""
    from latentsync.media.video.write import VideoFormat, VideoWriter

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = [shown.frame for shown in read_frames(DEMO_VIDEO, 0, FRAMES)]
    with VideoWriter(path, VideoFormat.constant(frames[0].shape[1], frames[0].shape[0], FPS)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def sound() -> dict[str, Any]:
    waveform = torch.from_numpy(read_audio(DEMO_AUDIO)[: 16_000 * FRAMES // FPS])
    return {"waveform": waveform[None, None], "sample_rate": 16_000}


def test_nodes_are_valid(pack: ModuleType) -> None:
    schemas = [(node, node.define_schema()) for node in nodes_of(pack)]
    assert len({schema.node_id for _, schema in schemas}) == len(schemas) == 3
    for node, schema in schemas:
        schema.validate()
        named = [name for name in inspect.signature(node.execute).parameters if name != "lips"]
        lips = [entry for entry in schema.inputs if entry.id not in named]
        assert named == [entry.id for entry in schema.inputs if entry not in lips]
        assert [entry.id for entry in lips] in ([], list(CHOICES))
        InferenceSettings().changed({entry.id: entry.options["default"] for entry in lips if entry.id != "preset"})
        assert schema.category == "video/lip sync" and all(entry.id for entry in schema.outputs)
        for entry in schema.inputs:
            if entry.type == "COMBO" and "default" in entry.options:
                assert entry.options["default"] in entry.options["options"]


def test_weights_are_listed_from_comfyuis_folder(comfy: Comfy, pack: ModuleType) -> None:
    (comfy.folder / "models/latentsync").mkdir(parents=True)
    (comfy.folder / "models/latentsync/mine.safetensors").touch()
    offered = pack.LatentSyncLoader.define_schema().inputs[0].options["options"]
    assert offered[0] == "mine.safetensors" and len(offered) == 2
    with pytest.raises(FileNotFoundError):
        pack.LatentSyncLoader.execute(model="gone.safetensors", precision="auto")


@pytest.mark.slow
def test_a_video_gets_the_frames_of_the_command(comfy: Comfy, pack: ModuleType, pipeline: Any, clip: Path) -> None:
    done = pack.LatentSyncVideo.execute(
        pipeline=pipeline, video=VideoFromFile(str(clip)), audio=sound(), **CHOICES, face="largest"
    )
    video, report = done.result
    assert probe(video.path).frame_count == FRAMES and Path(video.path).parent == comfy.folder / "temp"
    assert json.loads(report)["frames"] == FRAMES and comfy.unloaded == 1
    assert Bar.all and all(bar.values[-1] <= bar.total for bar in Bar.all)
    nodes = sys.modules["latentsync_nodes.nodes"]
    nodes.write_sound(comfy.folder / "a.wav", sound())
    names = {"video_path": clip, "audio_path": comfy.folder / "a.wav", "video_out_path": comfy.folder / "o.mp4"}
    arguments = [each for name, value in names.items() for each in (f"--{name}", str(value))]
    arguments += ["--inference_ckpt_path", str(DEMO_UNET), "--detector", "mesh", "--preset", "turbo", "--seed", "7"]
    assert lip_sync([*arguments, "--precision", "fp32", "--length", "cut", "--rest", "keep"]) == 0
    expected = [shown.frame for shown in read_frames(comfy.folder / "o.mp4")]
    assert np.array_equal(expected, [shown.frame for shown in read_frames(video.path)])


@pytest.mark.slow
def test_a_part_of_a_video_is_saved_first(comfy: Comfy, pack: ModuleType, pipeline: Any, clip: Path) -> None:
    video = VideoFromFile(str(clip), window=(0.1, 0.2))
    pack.LatentSyncVideo.execute(pipeline=pipeline, video=video, audio=sound(), **CHOICES, face="largest")
    assert len(video.saved) == 1 and not Path(video.saved[0]).exists()


@pytest.mark.slow
def test_images_keep_their_number_and_every_untouched_pixel(pack: ModuleType, pipeline: Any, clip: Path) -> None:
    images = torch.from_numpy(np.stack([shown.frame for shown in read_frames(clip)])).float() / 255 + 1e-4
    new, changed = pack.LatentSyncImages.execute(
        pipeline=pipeline, images=images, audio=sound(), fps=25.0, **CHOICES
    ).result
    assert new.shape == images.shape and changed.shape == images.shape[:3] and new.dtype == torch.float32
    assert 0.01 < float(changed.mean()) < 0.5
    assert torch.equal(new[changed == 0], images[changed == 0])


@pytest.mark.slow
def test_an_interrupt_stops_the_run_and_leaves_nothing(
    comfy: Comfy, pack: ModuleType, pipeline: Any, clip: Path
) -> None:
    comfy.interrupt_after = 20
    with pytest.raises(Interrupted):
        pack.LatentSyncVideo.execute(
            pipeline=pipeline, video=VideoFromFile(str(clip)), audio=sound(), **CHOICES, face="largest"
        )
    assert comfy.looks == 20 and list((comfy.folder / "temp").iterdir()) == []


def test_sound_of_several_channels_keeps_them(comfy: Comfy, pack: ModuleType) -> None:
    nodes, path = sys.modules["latentsync_nodes.nodes"], comfy.folder / "stereo.wav"
    both = torch.stack([torch.linspace(-1, 1, 4410), torch.zeros(4410)])
    nodes.write_sound(path, {"waveform": both[None], "sample_rate": 44_100})
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 44_100, 4410)
        samples = np.frombuffer(file.readframes(4410), np.int16).reshape(-1, 2)
    assert np.abs(samples / 32767 - both.T.numpy()).max() < 1e-4
