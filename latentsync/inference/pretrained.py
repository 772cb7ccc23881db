"""A pipeline's networks as a folder in diffusers' layout: `model_index.json`, a model card, and a folder for each network.

`unet`, `vae`, `audio_encoder` and, if there is a small decoder, `tiny_vae` hold a configuration and safetensors; diffusers itself
can load `vae`. Such a folder can be given wherever a U-Net's file can (see `latentsync.inference.model_files`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from latentsync import __version__
from latentsync.audio.whisper_encoder import AudioEncoder
from latentsync.audio.whisper_model import KIND as ENCODER_KIND
from latentsync.files import network_hash
from latentsync.inference.model_files import (
    ENCODER_FOLDER,
    FOLDER_INDEX,
    TINY_FOLDER,
    UNET_FOLDER,
    VAE_FOLDER,
    WEIGHTS_IN_FOLDER,
)
from latentsync.inference.models import LipsyncModels
from latentsync.models.vae import KIND as TINY_KIND
from latentsync.models.vae import public_config
from latentsync.weights import save_checkpoint
from latentsync.weights.delta import BASE_ENTRY
from latentsync.weights.files import VAE_CONFIG
from latentsync.weights.table import RAIL

CLASSES = {
    UNET_FOLDER: ("latentsync", "UNet3DConditionModel"),
    VAE_FOLDER: ("diffusers", "AutoencoderKL"),
    ENCODER_FOLDER: ("latentsync", "AudioEncoder"),
    TINY_FOLDER: ("latentsync", "TinyDecoder"),
}
MILLION = 1e6


def save_models(models: LipsyncModels, folder: Path) -> None:
    """Write the networks into a new or empty folder, in the precision in which they are loaded. A delta is written whole.

    Raises:
        ValueError: the folder is not empty.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder, and nothing is overwritten: give another one.")
    assert isinstance(models.audio_encoder, AudioEncoder), "loaded models"
    facts = unet_facts(models)
    networks: dict[str, tuple[Any, Mapping[str, Any]]] = {
        UNET_FOLDER: (models.unet, facts),
        VAE_FOLDER: (models.vae, {"kind": "vae", "model": public_config(models.vae.config)}),
        ENCODER_FOLDER: (models.audio_encoder, {"kind": ENCODER_KIND, "dims": models.audio_encoder.dims}),
    }
    if models.tiny_vae is not None:
        networks[TINY_FOLDER] = (models.tiny_vae, {"kind": TINY_KIND, "model": models.tiny_vae.config})
    for name, (network, metadata) in networks.items():
        save_checkpoint(folder / name / WEIGHTS_IN_FOLDER, network.state_dict(), metadata)
        config = metadata.get("model") or metadata["dims"]
        write_json(folder / name / VAE_CONFIG, {"_class_name": CLASSES[name][1], **config})
    index = {"_class_name": "LipsyncPipeline", "_latentsync_version": __version__}
    (folder / "README.md").write_text(
        model_card(facts, {name: network for name, (network, _) in networks.items()}), encoding="utf-8"
    )
    write_json(
        folder / FOLDER_INDEX, {**index, **{name: CLASSES[name] for name in networks}}
    )  # last: now it is complete


def unet_facts(models: LipsyncModels) -> dict[str, Any]:
    """The metadata of the U-Net's file, with what is known of models that come from none."""
    known = {
        "kind": "unet",
        "model": models.unet.config.to_dict(),
        "resolution": models.resolution,
        "num_frames": models.num_frames,
        "alignment": models.alignment,
    }
    return {**known, **{name: value for name, value in models.facts.items() if name != BASE_ENTRY}}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


CARD = """---
library_name: latentsync
pipeline_tag: video-to-video
license: {licence}
tags:
- lip-sync
- talking-head
- diffusion
---

# LatentSync, {resolution} px

A video of a person and another audio track in, the same video with lips that speak that audio out.

```python
from latentsync.inference.pipeline import LipsyncPipeline

pipeline = LipsyncPipeline.from_pretrained("path/to/this/folder")
pipeline("talk.mp4", "dubbed.wav", "dubbed.mp4")
```

| fact | value |
|---|---|
{facts}

| network | parameters | hash |
|---|---|---|
{networks}

{licence_note}
"""


def model_card(facts: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> str:
    """A model card in the hub's format, from the U-Net's metadata and the networks by folder."""
    licence = RAIL if "release" in facts else None
    inference = ", ".join(f"{name} {value}" for name, value in facts.get("inference", {}).items())
    rows = {
        "face": f"{facts['resolution']} px, aligned by {facts['alignment']}",
        "frames sampled together": facts["num_frames"],
        "release": facts.get("release"),
        "trained": f"{facts['step']} steps, {facts['clips']} clips" if {"step", "clips"} <= facts.keys() else None,
        "distilled": "for few steps without guidance" if "distilled" in facts else None,
        "recommended settings": inference or None,
    }
    return CARD.format(
        licence=(licence or "other").lower(),
        resolution=facts["resolution"],
        facts="\n".join(f"| {name} | {value} |" for name, value in rows.items() if value is not None),
        networks="\n".join(
            f"| {name} | {sum(p.numel() for p in network.parameters()) / MILLION:.1f} M | `{network_hash(network)}` |"
            for name, network in networks.items()
        ),
        licence_note=f"Licence of the U-Net: {licence}."
        if licence
        else "The licence of these weights is not stored in their file: state it before you publish them.",
    )
