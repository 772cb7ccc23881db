"""The files of the networks: finds them, and lists the missing or damaged ones, before any is loaded.

Only names and shapes are read, which is fast for files of any size. The width of the speech encoder follows from the
U-Net's shapes. Instead of a U-Net's file, a folder in diffusers' layout can be given (see `latentsync.inference.pretrained`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync.audio.whisper_model import encoder_width
from latentsync.face.detection.detector import detector_problems
from latentsync.inference.settings import InferenceSettings
from latentsync.weights import (
    CHECKPOINTS,
    DEMO,
    CheckpointError,
    check_file,
    public_vae_problem,
    read_header,
    without_remedy,
)
from latentsync.weights.adapters import adapters_of
from latentsync.weights.table import FETCH_INFERENCE, PUBLIC_FILES, PUBLIC_UNET, public_file

if TYPE_CHECKING:
    from latentsync.models.unet.config import UNetConfig  # imports PyTorch, which telling what is missing does not need

WHISPER_OF_WIDTH = {384: "tiny", 768: "small"}  # width of the audio cross-attention -> public speech encoder
PUBLIC_WIDTH = 384  # of all official U-Nets
SYNCNET_FILES = ("syncnet.safetensors", "stable_syncnet.pt")
TINY_VAE = "tiny_vae.safetensors"
FOLDER_INDEX, WEIGHTS_IN_FOLDER = "model_index.json", "diffusion_pytorch_model.safetensors"  # of diffusers' layout
UNET_FOLDER, VAE_FOLDER, ENCODER_FOLDER, TINY_FOLDER = "unet", "vae", "audio_encoder", "tiny_vae"
DEMO_UNET = DEMO / "unet.safetensors"
VAE_FILES = tuple(file.path for file in PUBLIC_FILES if file.path.startswith("vae/"))


@dataclass(frozen=True)
class ModelFile:
    """A file, or folder, of one network."""

    role: str  # such as "U-Net"
    path: Path
    problem: str = ""  # as a sentence without full stop; empty if there is none
    to_fetch: tuple[str, ...] = ()  # paths under checkpoints/ that the download command fetches


@dataclass(frozen=True)
class ModelFiles:
    """The files of all networks, and the U-Net's metadata as far as it can be read (see `load_unet`)."""

    unet: ModelFile
    vae: ModelFile
    audio_encoder: ModelFile
    detector: tuple[ModelFile, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> tuple[ModelFile, ...]:
        return self.unet, self.vae, self.audio_encoder, *self.detector

    @property
    def problems(self) -> list[ModelFile]:
        """The files that are missing, damaged, or do not fit."""
        return [file for file in self.all if file.problem]

    @property
    def way_out(self) -> str:
        """A sentence with the command that fetches the missing public files; empty if there are none."""
        paths = [path for file in self.problems for path in file.to_fetch]
        if not paths:
            return ""
        alone = "" if PUBLIC_UNET.name in paths else f" --only {' '.join(paths)}"
        return f"Fetch {'it' if len(self.problems) == 1 else 'what is missing'} with `{FETCH_INFERENCE}{alone}`."

    def check(self) -> "ModelFiles":
        """Return self; CheckpointError that lists every problem and the command that fetches public files."""
        problems = self.problems
        if not problems:
            return self
        text = problems[0].problem
        if len(problems) > 1:
            listed = "; ".join(f"({n}) {file.role}: {file.problem}" for n, file in enumerate(problems, 1))
            text = f"{len(problems)} parts of these models are missing or cannot be used: {listed}"
        raise CheckpointError(f"{text}. {self.way_out}".strip())


def find_model_files(
    unet_path: Path | str = PUBLIC_UNET, unet_config_path: Path | str | None = None, detector: str | None = None
) -> ModelFiles:
    """Find the files that belong to a U-Net, and those of a face detector if it is named; problems are collected, not raised.

    Raises ValueError where the configuration is missing or wrong, or the detector is unknown.
    """
    config, expected = configured(unet_config_path)
    unet_path = unet_file(unet_path)
    unet, facts = _unet_file(unet_path, config, expected)
    run = facts.get("run", {})
    trained_with = run.get("frozen_networks") or run.get("experts", {})  # `experts`: key in older files
    width = facts.get("model", {}).get("cross_attention_dim", PUBLIC_WIDTH)
    return ModelFiles(
        unet,
        _vae_file(vae_path(unet_path, trained_with.get("vae", ""))),
        _encoder_file(audio_encoder_path(unet_path, width, trained_with.get("whisper", "")), width),
        tuple(ModelFile("face detector", path, text, _public(path)) for path, text in _detector_files(detector)),
        facts,
    )


def looks_complete(unet_path: Path | str, detector: str | None = None) -> bool:
    """Whether the files that usually belong to a U-Net are there and whole, by their names, beginnings and lengths.

    It takes milliseconds and no PyTorch; where it is False, `find_model_files` knows more.
    """
    unet = unet_file(unet_path)
    vae = vae_path(unet)
    try:
        for path in (unet, audio_encoder_path(unet, PUBLIC_WIDTH), *([vae] if vae.is_file() else [])):
            check_file(path)
    except CheckpointError:
        return False
    return (vae.is_file() or not public_vae_problem(vae)) and not any(text for _, text in _detector_files(detector))


def configured(config_path: Path | str | None) -> "tuple[UNetConfig | None, dict[str, Any]]":
    """The U-Net configuration of a file, and its `resolution`, `num_frames` and, if given, `alignment`."""
    if config_path is None:
        return None, {}
    from latentsync.config import UNetRun, load

    run = load(config_path, UNetRun)
    size = {"resolution": run.data.resolution, "num_frames": run.data.num_frames}
    alignment = {"alignment": run.data.alignment} if run.data.alignment else {}
    return run.net, {**size, **alignment}


def unet_file(path: Path | str) -> Path:
    """The U-Net's file: `path` itself, or that in a folder in diffusers' layout."""
    path = Path(path)
    return path / UNET_FOLDER / WEIGHTS_IN_FOLDER if (path / FOLDER_INDEX).is_file() else path


def folders(unet_path: Path | str) -> list[Path]:
    """The folders that are searched for the networks beside a U-Net."""
    beside = Path(unet_path).resolve().parent
    return [beside.parent if (beside.parent / FOLDER_INDEX).is_file() else beside, CHECKPOINTS]


def tiny_vae_path(unet_path: Path | str) -> Path:
    """The small decoder of a U-Net, which need not exist."""
    beside, _ = folders(unet_path)
    in_folder = beside / TINY_FOLDER / WEIGHTS_IN_FOLDER
    return in_folder if in_folder.is_file() else beside / TINY_VAE


def syncnet_path(unet_path: Path | str) -> Path:
    """The SyncNet beside a U-Net, or the public one; it need not exist."""
    places = [folder / name for folder in folders(unet_path) for name in SYNCNET_FILES]
    return next((place for place in places if place.is_file()), places[-1])


def vae_path(unet_path: Path | str, trained_with: Path | str = "") -> Path:
    """The auto-encoder of a U-Net, a file or a folder; `trained_with` is the path of the one it was trained with."""
    beside, public = folders(unet_path)
    own = [Path(trained_with)] if trained_with else []
    places = [beside / "vae.safetensors", beside / VAE_FOLDER, *own, public / VAE_FOLDER]
    return next((place for place in places if place.exists()), places[-1])


def audio_encoder_path(unet_path: Path | str, width: int, trained_with: Path | str = "") -> Path:
    """The speech encoder of a U-Net with audio tokens of `width`; `trained_with` is the path of the one it was trained with."""
    beside, public = (
        [folder / name for name in ("whisper.pt", f"whisper/{WHISPER_OF_WIDTH.get(width, 'tiny')}.pt")]
        for folder in folders(unet_path)
    )
    in_folder = folders(unet_path)[0] / ENCODER_FOLDER / WEIGHTS_IN_FOLDER
    places = [in_folder, *beside, *([Path(trained_with)] if trained_with else []), *public]
    return next((place for place in places if place.is_file()), places[-1])


def distilled_companion(unet_path: Path | str) -> Path:
    """The distilled version of a U-Net: `NAME_turbo.safetensors` beside it if that exists, else the path itself."""
    path = Path(unet_path)
    companion = path.with_name(f"{path.stem}_turbo.safetensors")
    return companion if companion.is_file() else path


def recommended(metadata: Mapping[str, Any]) -> InferenceSettings:
    """The settings that a checkpoint recommends, with defaults for all others."""
    return InferenceSettings().changed(metadata.get("inference", {}))


def settings_for(files: ModelFiles, entries: Mapping[str, Any]) -> InferenceSettings:
    """The settings that `entries` give to the weights of `files`; ValueError if these weights do not support them, or an adapter's
    file cannot be used."""
    settings = recommended(files.facts).changed(entries)
    check_settings(settings, "distilled" in files.facts, tiny_vae_path(files.unet.path).is_file())
    if settings.adapter:
        from latentsync.models.unet.adapter import check_adapters  # imports PyTorch

        check_adapters(adapters_of(settings.adapter))
    return settings


def check_settings(settings: InferenceSettings, distilled: bool, has_tiny_vae: bool) -> None:
    """ValueError for settings that weights of this kind do not support."""
    if settings.needs_distilled_weights and not distilled:
        raise ValueError(
            f"the solver {settings.solver} (preset turbo) needs weights that were distilled for it, and these were not: choose"
            " the preset fast, or distil them (docs/performance.md)."
        )
    if distilled and not settings.needs_distilled_weights:
        raise ValueError(
            f"these weights were distilled for few steps and do not support the solver {settings.solver}: choose the preset"
            " turbo, or the weights that they were made from."
        )
    if distilled and settings.guidance_scale != 1:
        raise ValueError(
            f"guidance_scale is {settings.guidance_scale:g}, but these weights were distilled without guidance: choose 1, or"
            " another preset than turbo."
        )
    if settings.vae == "tiny" and not has_tiny_vae:
        raise ValueError(
            f"vae is tiny, but there is no {TINY_VAE} beside the U-Net: leave it out, or train one with"
            " `python -m scripts.train_tiny_vae`."
        )


def _unet_file(
    path: Path, config: "UNetConfig | None", expected: Mapping[str, Any]
) -> tuple[ModelFile, dict[str, Any]]:
    role = "U-Net"
    if not path.exists() and path.resolve().parent == DEMO:
        problem = f"the demo model {path} is missing: restore the folder {DEMO} from the repository"
        return ModelFile(role, path, problem), {}
    if not path.exists() and not _public(path):
        return ModelFile(role, path, f"the checkpoint {path} does not exist: check the path"), {}
    try:
        check_file(path)
    except CheckpointError as error:
        return ModelFile(role, path, without_remedy(error, path), _public(path)), {}
    from latentsync.models.unet.checkpoint import read_unet_facts  # from here on PyTorch reads the file

    try:
        _, facts = read_unet_facts(path, config, expected)
    except CheckpointError as error:
        return ModelFile(role, path, without_remedy(error, path), _public(path)), _metadata_without_configuration(path)
    return ModelFile(role, path), {**expected, **facts}


def _metadata_without_configuration(path: Path) -> dict[str, Any]:
    """Metadata of a U-Net that lacks nothing but its configuration; they suffice to find the other networks' files."""
    from latentsync.models.unet.checkpoint import read_unet_facts

    try:
        model, facts = read_unet_facts(path, None, {"resolution": None})
    except CheckpointError:
        return {}
    return {**facts, "model": model.to_dict()}


def _vae_file(path: Path) -> ModelFile:
    role = "image auto-encoder"
    if not path.is_file():
        return ModelFile(role, path, public_vae_problem(path), VAE_FILES if path == CHECKPOINTS / VAE_FOLDER else ())
    try:
        read_header(path).require_kind("vae")
    except CheckpointError as error:
        return ModelFile(role, path, without_remedy(error, path))
    return ModelFile(role, path)


def _encoder_file(path: Path, width: int) -> ModelFile:
    role = "speech encoder"
    if not path.exists() and width not in WHISPER_OF_WIDTH:
        problem = f"the U-Net needs audio tokens of width {width}, which no public encoder has: put whisper.pt beside the U-Net"
        return ModelFile(role, path, problem)
    try:
        given = encoder_width(path)
    except CheckpointError as error:
        return ModelFile(role, path, without_remedy(error, path), _public(path))
    return ModelFile(role, path, width_problem(given, width))


def width_problem(given: int, wanted: int) -> str:
    """The problem if a speech encoder's width is not the one `wanted` by the U-Net; empty if they agree."""
    if given == wanted:
        return ""
    return (
        f"the speech encoder's states are {given} wide, but the U-Net needs {wanted} (cross_attention_dim): put the encoder"
        " that it was trained with beside it, as whisper.pt"
    )


def _detector_files(detector: str | None) -> list[tuple[Path, str]]:
    return detector_problems(detector) if detector else []


def _public(path: Path) -> tuple[str, ...]:
    """The path under checkpoints/ of a public file; empty for any other file."""
    file = public_file(path)
    return (file.path,) if file else ()
