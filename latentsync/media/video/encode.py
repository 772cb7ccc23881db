"""The choice of a video encoder by codec, among those installed, and its settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal, get_args

import av
import cv2

from latentsync.media.container import MediaError
from latentsync.media.index.hdr import HdrMetadata
from latentsync.media.pixels.colour import RGB, ColourTags
from latentsync.media.pixels.geometry import Orientation
from latentsync.media.pixels.pixel_format import USUAL, PixelFormat, pixel_format

Codec = Literal["auto", "h264", "hevc", "av1", "ffv1", "prores"]
CODECS: Final = get_args(Codec)
# With its AVX-512 code libx264 is not deterministic at some widths (seen at 64, 96 and 154 px, not at 128 and 640);
# without it, it is. All AVX-512 processors have the instructions listed here.
X264_REPEATABLE: Final = "asm=MMX2,SSE2,SSE3,SSSE3,SSE4,SSE4.2,LZCNT,AVX,FMA3,BMI1,BMI2,AVX2"
OPENCV_AVX512 = 256  # CV_CPU_AVX512_SKX of OpenCV's headers, which has no name in Python
X265_PLAIN: Final = "weightp=0:weightb=0:slices=1"
SQUARE: Final = Fraction(1)  # sample aspect ratio of square pixels
NO_HDR: Final = HdrMetadata()
FIELD_ROWS: Final = 4  # the height of interlaced pictures must be a multiple of it: two rows of chroma
INTERLACED: Final = {"flags": "+ildct+ilme"}
HdrParams = Literal["x265-params", "svtav1-params"]


@dataclass(frozen=True)
class Beside:
    """What a part must have to be joined with packets of a film, see `latentsync.media.video.film`."""

    parameter_set_id: int  # of H.264, other than the film's
    profile: str  # of H.264, x264's name
    orientation: Orientation = (
        Orientation()
    )  # in which the film shows its pictures, so that upright ones are turned back


@dataclass(frozen=True)
class Encoder:
    """One of libav's encoders and its options for constant quality."""

    name: str
    codec: Codec | Literal["mpeg4"]
    pixel_format: str  # for an even width and height
    odd_pixel_format: str | None  # for an odd width or height; None: not supported
    crf_max: int
    options: tuple[tuple[str, str], ...] = ()
    quality_options: tuple[str, ...] = ("crf",)
    suffixes: tuple[str, ...] = (".mp4", ".mov", ".mkv")
    min_side: int = 1  # px
    keeps_aspect: bool = True  # whether its bitstream states the sample aspect ratio, which .mkv files rely on
    more_formats: tuple[str, ...] = ()  # alternatives for sources that would lose more in `pixel_format`
    hdr_params: HdrParams | None = None  # the option for HDR metadata
    deep_finer: int = 0  # subtracted from crf for pictures of more than 8 bits, so that their levels survive
    deep_options: tuple[tuple[str, str], ...] = ()  # for these, instead of `options`
    keeps_fields: bool = False  # whether its pictures can be flagged as interlaced

    def format_for(self, width: int, height: int, source: str = USUAL) -> str:
        """The pixel format that supports a size and loses least of a source in the format `source`."""
        odd = width % 2 or height % 2
        assert self.odd_pixel_format is not None or not odd, "the encoder was chosen for this size"
        usual = self.odd_pixel_format if odd and self.odd_pixel_format else self.pixel_format
        more = (name for name in self.more_formats if pixel_format(name).fits(width, height))
        return min([usual, *more], key=lambda name: pixel_format(source).lost_in(pixel_format(name)))

    def suits(self, width: int, height: int, suffix: str, sample_aspect: Fraction) -> bool:
        """Whether it is installed and can write such pictures to a file with that suffix."""
        is_kept = self.keeps_aspect or sample_aspect == 1 or suffix != ".mkv"
        has_size = self.odd_pixel_format is not None or not (width % 2 or height % 2)
        is_large = min(width, height) >= self.min_side
        return suffix in self.suffixes and is_kept and is_large and has_size and is_installed(self.name)

    def can_flag_fields(self, height: int) -> bool:
        """Whether interlaced pictures of that height can be flagged as interlaced."""
        return self.keeps_fields and height % FIELD_ROWS == 0

    def settings(
        self, crf: int, hdr: HdrMetadata = NO_HDR, is_deep: bool = False, beside: "Beside | None" = None
    ) -> dict[str, str]:
        """The encoder's options for a quality, with `is_deep` for more than 8 bits, for HDR metadata, and for a part of a film.

        Raises MediaError if `crf` is outside the encoder's scale.
        """
        if not 0 <= crf <= self.crf_max:
            raise MediaError(
                f"a quality (crf) of {crf} is out of range for {self.name}. Choose one from 0 to {self.crf_max}."
            )
        own = self._x264_options(beside) if self.name == "libx264" else {}
        if beside and self.name == "libx265":  # headers of slices stay short, see `latentsync.media.video.hevc_slices`
            own = {"x265-params": X265_PLAIN}
        quantiser = self.quantiser(max(0, crf - self.deep_finer) if is_deep else crf)
        options = self.deep_options if is_deep and self.deep_options else self.options
        chosen = dict(options) | {name: str(quantiser) for name in self.quality_options} | own
        for name in own.keys() & dict(options).keys():
            chosen[name] = f"{dict(options)[name]}:{own[name]}"
        if self.hdr_params is not None and hdr.is_static:
            stated = hdr.x265_params() if self.hdr_params == "x265-params" else hdr.svt_params()
            chosen[self.hdr_params] = ":".join(filter(None, (chosen.get(self.hdr_params), stated)))
        return chosen

    def _x264_options(self, beside: "Beside | None") -> dict[str, str]:
        """The options of libx264 on this processor, and for a part of a film."""
        numbered = f"sps-id={beside.parameter_set_id}" if beside else ""
        params = ":".join(filter(None, (X264_REPEATABLE if has_avx512() else "", numbered)))
        profile = {"profile": beside.profile} if beside and beside.profile else {}
        return ({"x264-params": params} if params else {}) | profile

    def quantiser(self, crf: int) -> int:
        """The encoder's value for `crf`: the same, or MPEG-4's quantiser, which doubles for each 6 of H.264's."""
        return crf if self.name != "mpeg4" else min(31, max(2, round(2 ** ((crf - 12) / 6))))

    def colour(self, wanted: ColourTags, stored: str) -> ColourTags:
        """The tags of pictures stored in the format `stored`: those wanted, except that RGB formats need RGB tags."""
        return replace(wanted, matrix=RGB, full_range=True) if pixel_format(stored).is_rgb else wanted


# half of the default lookahead: 100 MB less at 1080p
X264_OPTIONS: Final = (("preset", "medium"), ("rc-lookahead", "20"))
X264 = Encoder("libx264", "h264", USUAL, "yuv444p", 51, X264_OPTIONS, keeps_fields=True)
OPENH264 = Encoder("libopenh264", "h264", USUAL, None, 51, (("rc_mode", "quality"),), ("qmin", "qmax"))
MPEG4 = Encoder("mpeg4", "mpeg4", USUAL, USUAL, 51, (("bf", "0"),), ("qmin", "qmax"), keeps_fields=True)
# libx265 corrupts memory, and may crash the process, if a side is shorter than its block of 64 px
X265 = Encoder(
    "libx265",
    "hevc",
    USUAL,
    "yuv444p",
    51,
    (("preset", "medium"), ("x265-params", "log-level=error")),
    min_side=64,
    more_formats=("yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
    hdr_params="x265-params",
    # smooth areas, where steps of 10 bits are visible, get more bits than others
    deep_finer=9,  # 6 left 36 to 39 of 40 neighbouring levels, depending on the picture; 9 leaves 38 and more
    deep_options=(("preset", "medium"), ("x265-params", "log-level=error:aq-mode=3:aq-strength=1.5")),
)
SVT_AV1 = Encoder(
    "libsvtav1",
    "av1",
    USUAL,
    None,
    63,
    (("preset", "8"),),
    suffixes=(".mp4", ".mkv"),
    keeps_aspect=False,
    more_formats=("yuv420p10le",),
    hdr_params="svtav1-params",
)
AOM_AV1 = Encoder(
    "libaom-av1",
    "av1",
    USUAL,
    "yuv444p",
    63,
    (("cpu-used", "6"),),
    suffixes=(".mp4", ".mkv"),
    keeps_aspect=False,
    more_formats=("yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
)
FFV1 = Encoder(
    "ffv1",
    "ffv1",
    "bgr0",
    "bgr0",
    51,
    (("level", "3"), ("slicecrc", "1")),
    (),
    (".mp4", ".mkv"),
    keeps_aspect=False,
    more_formats=(
        *(f"yuv{chroma}p{bits}le" for bits in (10, 12, 16) for chroma in (420, 422, 444)),
        *(f"yuva{chroma}p{bits}" for bits in ("", "10le", "16le") for chroma in (420, 422, 444)),
        *(f"{name}{bits}le" for name in ("gbrp", "gbrap") for bits in (10, 12, 16)),
    ),
    keeps_fields=True,
)
# its profiles have fixed bit rates: HQ for 4:2:2, 4444 for the others
PRORES = Encoder(
    "prores_ks",
    "prores",
    "yuv422p10le",
    "yuv444p10le",
    51,
    (),
    (),
    (".mov",),
    more_formats=("yuv444p10le", "yuva444p10le"),
    keeps_fields=True,
)

ENCODERS: Final[dict[str, tuple[Encoder, ...]]] = {
    "auto": (X264, OPENH264, MPEG4),
    "h264": (X264, OPENH264),
    "hevc": (X265,),
    "av1": (SVT_AV1, AOM_AV1),
    "ffv1": (FFV1,),
    "prores": (PRORES,),
}


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Restore the scheduling policy of all threads, which SVT-AV1 changes when it is opened by root, as in many containers.

    It sets Linux' real-time policy for its own threads and the one that opens it, and all later threads and processes inherit
    it: each can then occupy a core without limit, and threads that wait for another one can block it indefinitely. On exit all
    threads get the policy that this thread had on entry.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    before, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != before:
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), before, priority)


def choose_encoder(
    codec: str, width: int, height: int, suffix: str, sample_aspect: Fraction = SQUARE, source: str = USUAL
) -> Encoder:
    """The first installed encoder of a codec that supports the size and the container.

    `auto` is H.264, or MPEG-4 part 2 where no H.264 encoder is installed; if the pixel format `source` has more than 8 bits
    it is HEVC, and if it has alpha too, ProRes for .mov files. Raises MediaError if there is none.
    """
    if codec == "auto":
        for encoder in deep_encoders(pixel_format(source), suffix):
            if encoder.suits(width, height, suffix, sample_aspect):
                return encoder
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
            f"a .mkv file of {codec} cannot store the sample aspect ratio {sample_aspect}. Name the output .mp4, or choose the"
            " codec h264 or hevc."
        )
    if min(width, height) < fitting[0].min_side:
        raise MediaError(
            f"{fitting[0].name} cannot write {width}x{height}: each side must be at least {fitting[0].min_side} px. Choose h264."
        )
    odd = width % 2 or height % 2
    for encoder in fitting:
        if encoder.odd_pixel_format is not None or not odd:
            return encoder
    raise MediaError(f"{fitting[0].name} cannot write the odd size {width}x{height}. Choose the codec h264 or ffv1.")


def deep_encoders(source: PixelFormat, suffix: str) -> tuple[Encoder, ...]:
    """Widely supported encoders for more than 8 bits, the best first; none for a source of 8 bits."""
    if source.bits <= 8:
        return ()
    return (PRORES, X265, SVT_AV1) if source.has_alpha and suffix in PRORES.suffixes else (X265, SVT_AV1)


def has_avx512() -> bool:
    """Whether this processor has AVX-512 instructions."""
    return bool(cv2.checkHardwareSupport(OPENCV_AVX512))


def is_installed(name: str) -> bool:
    """Whether the installed PyAV has an encoder."""
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
