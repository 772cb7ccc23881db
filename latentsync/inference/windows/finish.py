"""From decoded faces to new faces: checked, with the original's colours and sharpness, inside of the mask.

Everything happens on the networks' device, and only in the rectangle around the generated region, which comes back alone: around it
are the originals. On a CPU one frame is finished after the other, because it fits into the cache.

Legend: f frames, r face resolution in pixels, h w height and width of the rectangle.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentsync.face.align import Region
from latentsync.face.colour import (
    BORDER_CELLS,
    BORDER_PIXELS,
    border_error,
    colour_error,
    enlarged,
    measured_frames,
    with_colours,
)
from latentsync.face.masks import border_band, generated_part, load_mask
from latentsync.face.pixels import frames_to_pixels, keep_surroundings
from latentsync.face.texture import kept_detail, sharpened, sharpening, small
from latentsync.weights import LATENT_STRIDE


@dataclass(frozen=True)
class NewFaces:
    """What replaces `part` of the `originals`, uint8 [f, r, r, 3]: `faces` [f, 3, h, w] float32, equal outside of the mask.

    Both are on the CPU. Faces may exceed [-1, 1] and are clamped when pasted. `rejection` is the reason why the output check
    failed, None if it passed; `retried`: they were sampled a second time, in float32. `detail` [f, 4, s, s]: where the originals'
    fine detail is kept, see `latentsync.face.texture`; None: nowhere.
    """

    originals: Tensor
    part: Region
    faces: Tensor
    rejection: str | None = None
    retried: bool = False
    detail: Tensor | None = None

    def whole(self) -> Tensor:
        """The new faces with what is around them, [f, 3, r, r] float32."""
        pixels = frames_to_pixels(self.originals)
        pixels[(..., *self.part)] = self.faces
        return pixels

    def frame(self, index: int) -> "NewFaces":
        """One of the frames."""
        one, detail = slice(index, index + 1), self.detail
        return replace(
            self, faces=self.faces[one], originals=self.originals[one], detail=None if detail is None else detail[one]
        )

    def faded(self, later: "NewFaces", share: float) -> "NewFaces":
        """Cross-faded with a `later` result for the same frames; `share` of it in [0, 1]."""
        detail = None if self.detail is None or later.detail is None else torch.lerp(self.detail, later.detail, share)
        return replace(later, faces=torch.lerp(self.faces, later.faces, share), detail=detail)


@dataclass(frozen=True)
class DecodedFaces:
    """Consecutive faces of one window on the networks' device, [f, 3, r, r] in [-1, 1].

    `pixels` are the originals; `reconstructed` are those of the `measured_frames`, merely encoded and decoded, None if colours stay
    as they are.
    """

    decoded: Tensor
    pixels: Tensor
    reconstructed: Tensor | None


class Finisher:
    """Finishes the faces of one job's windows; with `keeps_detail` as sharp as the originals, whose fine detail is kept."""

    def __init__(self, resolution: int, device: torch.device, keeps_detail: bool):
        mask = load_mask(resolution)
        self.resolution, self.keeps_detail = resolution, keeps_detail
        self.part = generated_part(mask)
        rows, columns = self.part
        self.mask = mask[self.part].to(device)
        self.kept = (mask > 0.5).float().to(device)  # of whole faces
        step = max(1, resolution // BORDER_PIXELS)
        self.few_rows, self.few_columns = (slice(each.start, each.stop, step) for each in self.part)
        self.band = border_band(mask)[self.few_rows, self.few_columns].to(device)
        sides = (rows.stop - rows.start, columns.stop - columns.start)
        self.border_cells = (round(BORDER_CELLS * sides[0] / resolution), round(BORDER_CELLS * sides[1] / resolution))

    def rejection(self, decoded: Tensor) -> str | None:
        """Why the decoded faces are rejected, or None."""
        return rejection_reason(decoded, self.mask, self.part)

    def finish(self, window: DecodedFaces) -> tuple[Tensor, Tensor | None]:
        """Faces and detail as of `NewFaces`, from decoded faces that were not rejected."""
        colours = None if window.reconstructed is None else self._colours(window, window.reconstructed)
        gain = sharpening(window.decoded, window.pixels, self.kept) if self.keeps_detail else None
        faces, changes = [], []
        for some in self._groups(window.decoded):
            new, before = (each[(some, slice(None), *self.part)] for each in (window.decoded, window.pixels))
            if colours is not None:
                new = with_colours(new, colours[some])
            if gain is not None:
                new = sharpened(new, gain, self.resolution)
            faces.append(keep_surroundings(new, before, self.mask))
            if self.keeps_detail:
                changes.append(small(faces[-1] - before, self.part, self.resolution))
        detail = kept_detail(torch.cat(changes)).cpu() if changes else None
        return torch.cat(faces).cpu(), detail

    def _colours(self, window: DecodedFaces, reconstructed: Tensor) -> Tensor:
        """What must be added to the colours of the decoded faces: [f, 3, n, n], in cells of the rectangle."""
        count, part = len(window.decoded), (..., *self.part)
        originals = window.pixels[measured_frames(count)][part]
        error = colour_error(reconstructed[part], originals, LATENT_STRIDE, count)
        decoded, pixels = (each[..., self.few_rows, self.few_columns] for each in (window.decoded, window.pixels))
        at_border = border_error(with_colours(decoded, error), pixels, self.band, self.border_cells)
        size = max(error.shape[-2:], self.border_cells)
        return enlarged(error, size) + enlarged(at_border, size)

    def _groups(self, faces: Tensor) -> Iterator[slice]:
        """Frames that are finished together."""
        count = 1 if faces.device.type == "cpu" else len(faces)
        return (slice(start, start + count) for start in range(0, len(faces), count))


# The output check of generated faces: values that are not finite, and pictures that show no face.
FLAT_DEVIATION = 0.01  # standard deviation of pixels in [-1, 1] below which a face is one colour
MASK_LEVEL, MASK_DEVIATION = 0.03, 0.06  # largest |mean| and standard deviation of the masked input's mid grey


def rejection_reason(faces: Tensor, mask: Tensor, part: Region) -> str | None:
    """Why decoded faces [f, 3, r, r] are rejected, or None; in `part` of them `mask` [h, w] is 0 where they were generated.
    Means and deviations are those of every second row and column.

    "not a number" for values that are not finite, anywhere, "one colour" where the generated part of a frame is uniform, and "mask"
    where it is the grey of the masked input.
    """
    seen, generated = faces[(..., *part)][..., ::2, ::2].float(), (mask[::2, ::2] < 0.5).to(faces.device, torch.float32)
    share = (generated / (generated.sum() * faces.shape[1])).flatten()  # of the mean over colours and generated pixels
    mean = (seen.flatten(2) @ share).sum(dim=1)
    centred = seen.flatten(2) - mean[:, None, None]
    deviation = (centred.square_() @ share).sum(dim=1).sqrt()
    is_finite = torch.isfinite(
        faces.sum(dtype=torch.float32)
    )  # the sum has every value, and is not finite if one is not
    is_flat = (deviation < FLAT_DEVIATION).any()
    is_mask = ((mean.abs() < MASK_LEVEL) & (deviation < MASK_DEVIATION)).any()
    found = torch.stack([~is_finite, is_flat, is_mask]).tolist()  # one read from the device
    return next(
        (reason for reason, holds in zip(("not a number", "one colour", "mask"), found, strict=True) if holds), None
    )
