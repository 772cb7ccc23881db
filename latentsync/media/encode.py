"""Which encoder writes the pictures: by codec, with what this installation has, and with which settings."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal, get_args

import av
import torch

from latentsync.media.colour import RGB, ColourTags
from latentsync.media.container import MediaError

Codec = Literal["auto", "h264", "hevc", "av1", "ffv1"]
CODECS: Final = get_args(Codec)
# With its AVX-512 code libx264 encodes the same pictures differently from run to run at some widths (seen at 64, 96 and
# 154 px, not at 128 and 640); without it never. All AVX-512 processors have the instructions that are named here.
X264_REPEATABLE: Final = "asm=MMX2,SSE2,SSE3,SSSE3,SSE4,SSE4.2,LZCNT,AVX,FMA3,BMI1,BMI2,AVX2"
SQUARE: Final = Fraction(1)  # pixels as wide as high


@dataclass(frozen=True)
class Encoder:
    """One of libav's encoders, and how it is asked for constant quality."""

    name: str
    pixel_format: str  # for an even width and height
    odd_pixel_format: str | None  # for any other size, kept exactly; None: cannot
    crf_max: int
    options: tuple[tuple[str, str], ...] = ()
    quality_options: tuple[str, ...] = ("crf",)
    suffixes: tuple[str, ...] = (".mp4", ".mov", ".mkv")
    min_side: int = 1  # px
    lossless: bool = False
    keeps_aspect: bool = True  # whether its stream tells the shape of a pixel, which .mkv files leave to it

    def format_for(self, width: int, height: int) -> str:
        """The pixel format that keeps a size exactly."""
        odd = width % 2 or height % 2
        assert self.odd_pixel_format is not None or not odd, "an encoder is chosen by the size"
        return self.odd_pixel_format if odd and self.odd_pixel_format else self.pixel_format

    def settings(self, crf: int) -> dict[str, str]:
        """The options that ask for a quality. Raises MediaError outside the encoder's scale."""
        if not 0 <= crf <= self.crf_max:
            raise MediaError(
                f"a quality (crf) of {crf} is not one of {self.name}'s. Choose one from 0 to {self.crf_max}."
            )
        own = {"x264-params": X264_REPEATABLE} if self.name == "libx264" and has_avx512() else {}
        return dict(self.options) | {name: str(self.quantiser(crf)) for name in self.quality_options} | own

    def quantiser(self, crf: int) -> int:
        """The number that stands for `crf`: itself, or MPEG-4's quantiser, which doubles where H.264's grows by 6."""
        return crf if self.name != "mpeg4" else min(31, max(2, round(2 ** ((crf - 12) / 6))))

    def colour(self, wanted: ColourTags) -> ColourTags:
        """The tags of stored pictures: those wanted, but RGB values are stored as they are."""
        return replace(wanted, matrix=RGB, full_range=True) if self.lossless else wanted


X264 = Encoder("libx264", "yuv420p", "yuv444p", 51, (("preset", "medium"), ("rc-lookahead", "20")))
OPENH264 = Encoder("libopenh264", "yuv420p", None, 51, (("rc_mode", "quality"),), ("qmin", "qmax"))
MPEG4 = Encoder("mpeg4", "yuv420p", "yuv420p", 51, (("bf", "0"),), ("qmin", "qmax"))
# libx265 writes over its own memory, and may end the process, where a side is shorter than one of its blocks of 64 px
X265 = Encoder(
    "libx265", "yuv420p", "yuv444p", 51, (("preset", "medium"), ("x265-params", "log-level=error")), min_side=64
)
SVT_AV1 = Encoder("libsvtav1", "yuv420p", None, 63, (("preset", "8"),), suffixes=(".mp4", ".mkv"), keeps_aspect=False)
AOM_AV1 = Encoder(
    "libaom-av1", "yuv420p", "yuv444p", 63, (("cpu-used", "6"),), suffixes=(".mp4", ".mkv"), keeps_aspect=False
)
FFV1 = Encoder(
    "ffv1",
    "bgr0",
    "bgr0",
    51,
    (("level", "3"), ("slicecrc", "1")),
    (),
    (".mp4", ".mkv"),
    lossless=True,
    keeps_aspect=False,
)

ENCODERS: Final[dict[str, tuple[Encoder, ...]]] = {
    "auto": (X264, OPENH264, MPEG4),
    "h264": (X264, OPENH264),
    "hevc": (X265,),
    "av1": (SVT_AV1, AOM_AV1),
    "ffv1": (FFV1,),
}


def choose_encoder(codec: str, width: int, height: int, suffix: str, sample_aspect: Fraction = SQUARE) -> Encoder:
    """The first encoder of a codec that is installed, keeps the size exactly and fits the container.

    `auto` is H.264, or MPEG-4 part 2 where no H.264 encoder is installed. Raises MediaError if there is none.
    """
    if codec not in ENCODERS:
        raise MediaError(f"there is no codec {codec!r} here. Choose one of {', '.join(ENCODERS)}.")
    installed = [encoder for encoder in ENCODERS[codec] if is_installed(encoder.name)]
    if not installed:
        names = " or ".join(encoder.name for encoder in ENCODERS[codec])
        raise MediaError(f"this PyAV has no {names}, which writes {codec}. Choose another codec, or reinstall av.")
    fitting = [encoder for encoder in installed if suffix in encoder.suffixes]
    if not fitting:
        raise MediaError(f"a {suffix} file cannot hold {codec}. Name the output {' or '.join(installed[0].suffixes)}.")
    if sample_aspect != 1 and suffix == ".mkv" and not fitting[0].keeps_aspect:
        raise MediaError(
            f"a .mkv file of {codec} cannot keep pixels of the shape {sample_aspect}. Name the output .mp4, or choose the"
            " codec h264 or hevc."
        )
    if min(width, height) < fitting[0].min_side:
        raise MediaError(
            f"{fitting[0].name} cannot write {width}x{height}: it needs {fitting[0].min_side} px a side. Choose h264."
        )
    odd = width % 2 or height % 2
    for encoder in fitting:
        if encoder.odd_pixel_format is not None or not odd:
            return encoder
    raise MediaError(f"{fitting[0].name} cannot write the odd size {width}x{height}. Choose the codec h264 or ffv1.")


def has_avx512() -> bool:
    """Whether this processor has AVX-512 instructions."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def is_installed(name: str) -> bool:
    """Whether this PyAV has an encoder."""
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
