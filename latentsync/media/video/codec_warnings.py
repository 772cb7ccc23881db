"""Warnings about what an output codec does not keep of a video: bits, chroma, alpha, HDR metadata, interlacing."""

from latentsync.media.pixels.interlace import Interlaced
from latentsync.media.pixels.pixel_format import PixelFormat, pixel_format
from latentsync.media.probe import MediaInfo
from latentsync.media.video.encode import FFV1, PRORES, X265, Encoder
from latentsync.media.video.write import VideoFormat

SUBSAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0", (4, 4): "4:1:0"}
RICHER_ENCODERS = (X265, PRORES, FFV1)  # those that keep more than others, the most widely supported first


def loss_warning(info: MediaInfo, format: VideoFormat, encoder: Encoder, suffix: str) -> str | None:
    """A warning about what `encoder` does not keep of a video, and which codec keeps more; None if nothing is lost."""
    losses = lost(info, encoder)
    if not losses:
        return None
    shape = format.width, format.height
    others = [
        (other, end)
        for other in RICHER_ENCODERS
        for end in sorted(other.suffixes, key=lambda end: end != suffix)[:1]
        if other.suits(*shape, end, format.sample_aspect) and len(lost(info, other)) < len(losses)
    ]
    sentence = f"The codec {encoder.codec} does not keep all of this video: {', '.join(losses)}."
    if info.is_still or not others:
        return sentence
    best, end = min(others, key=lambda other: len(lost(info, other[0])))
    name = "" if end == suffix else f", in a {end} file,"
    return f"{sentence} The codec {best.codec}{name} keeps more."


def lost(info: MediaInfo, encoder: Encoder) -> list[str]:
    """Descriptions of what an encoder does not keep of a video."""
    source = pixel_format(info.pixel_format)
    kept = pixel_format(encoder.format_for(info.width, info.height, info.pixel_format))
    alpha, bits, chroma, _ = source.lost_in(kept)
    losses = [f"{source.bits} bits become {kept.bits}"] if bits else []
    if chroma and not info.is_still:
        losses.append(f"{subsampling(source)} chroma becomes {subsampling(kept)}")
    if alpha or (info.has_alpha and not source.has_alpha):
        losses.append("transparency is lost")
    stated = {"HDR mastering data": info.hdr.mastering, "HDR light levels": info.hdr.light}
    dropped = [name for name, value in stated.items() if value is not None and encoder.hdr_params is None]
    return losses + [f"{name} are lost" for name in dropped] + [f"without {name}" for name in info.hdr.others]


def subsampling(form: PixelFormat) -> str:
    """The usual name of a chroma subsampling."""
    return SUBSAMPLINGS.get((form.cell_width, form.cell_height), "finer")


def can_keep_fields(info: MediaInfo) -> bool:
    """Whether the fields of an interlaced video are still horizontal lines when it is turned upright."""
    return info.rotation == 0


def fields_warning(info: MediaInfo, encoder: Encoder, interlaced: Interlaced) -> str | None:
    """A warning about how an interlaced video is handled; None if nothing is lost."""
    if not info.fields:
        return None
    if interlaced == "keep" and not can_keep_fields(info):
        return "The video is interlaced and rotated: it is deinterlaced, because fields cannot be rotated."
    if interlaced == "deinterlace":
        way_out = " Use --interlaced keep to keep its fields." if can_keep_fields(info) else ""
        return f"The video is interlaced: it is deinterlaced to one progressive picture for each frame.{way_out}"
    if not encoder.can_flag_fields(info.height):
        return (
            f"The interlaced pictures are kept, but {encoder.name} cannot flag them, as h264, prores and ffv1 do: players will"
            " show combing."
        )
    return None
