"""Golden cases of the face room: alignment and pasting back, masks, image preparation, value conversions."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from einops import rearrange
from torch.nn import functional as F

from latentsync.face import align, feather, masks, paste, pixels
from latentsync.models import vae
from tests.golden.harness import Check, GoldenCase, compare, golden


def draw_frame(case: GoldenCase) -> np.ndarray:
    phase = case.normal("image_phase", (3, 3)).astype(np.float64)
    y, x = np.mgrid[0 : case.facts["frame"]["height"], 0 : case.facts["frame"]["width"]].astype(np.float64)
    turn = 2 * np.pi
    planes = [
        128
        + 55 * np.sin(turn * (x / 97 + y / 151) + phase[0, c])
        + 45 * np.cos(turn * (x / 41 - y / 67) + phase[1, c])
        + 20 * np.sin(turn * (x / 7 + y / 11) + phase[2, c])
        for c in range(3)
    ]
    return np.clip(np.round(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)


def compare_image(name: str, got: np.ndarray, want: np.ndarray, tolerance: dict[str, float]) -> Iterator[Check]:
    yield compare(f"{name} max", got, want, tolerance["image_max_abs"])
    mean = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).mean()) if got.shape == want.shape else np.inf
    yield Check(f"{name} mean", mean, tolerance["image_mean_abs"])


def compare_matrix(name: str, got: np.ndarray, want: np.ndarray, tolerance: dict[str, Any]) -> Iterator[Check]:
    yield compare(f"{name} linear", got[..., :2], want[..., :2], tolerance["matrix_max_abs"]["rotation_scale"])
    yield compare(f"{name} translation", got[..., 2], want[..., 2], tolerance["matrix_max_abs"]["translation"])


def paste_in_full(frame: np.ndarray, face: np.ndarray, matrix: np.ndarray, steps: dict[str, np.ndarray]) -> np.ndarray:
    """Paste `face` (uint8 square, negated) and note the blend weights in the size of the frame in `steps`."""
    inverted = -pixels.frames_to_pixels(face)
    height, width = frame.shape[:2]
    region = feather.pasted_region(matrix, align.crop_size(face.shape[0]), (height, width))
    assert region is not None
    size = align.crop_size(face.shape[0])
    crop = F.interpolate(inverted[None], size=size[::-1], mode="bicubic", align_corners=False, antialias=True)[0]
    for name in ("eroded", "soft"):
        steps[name] = np.zeros((height, width), dtype=np.float32)
    steps["eroded"][region], steps["soft"][region] = feather.feather(feather.coverage(matrix, size, region))
    steps["crop"] = crop.numpy()
    patch = paste.Patch.of((height, width), inverted, matrix)
    assert patch is not None
    result = frame.copy()
    patch.blend_into(result)
    return result


def matrices(points: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth matrices, plain matrices and the smoothing states of a stream of points [n, 3, 2]."""
    smoother = align.Smoother()
    smooth, biases = [], []
    for three in points:
        smooth.append(align.align_matrix(three, resolution, smoother))
        assert smoother.bias is not None
        biases.append(smoother.bias)
    return np.stack(smooth), np.stack([align.align_matrix(three, resolution) for three in points]), np.stack(biases)


@golden("alignment")
def alignment(case: GoldenCase) -> Iterator[Check]:
    arrays, tolerance = case.arrays, case.facts["tolerance"]
    frame = draw_frame(case)
    yield compare("frame", frame[::90, ::160], arrays["frame_probe"], 0)
    for resolution in sorted(int(key.removeprefix("bias_")) for key in arrays if key.startswith("bias_")):
        smooth, plain, bias = matrices(arrays["landmarks"], resolution)
        yield compare(f"bias {resolution}", bias, arrays[f"bias_{resolution}"], 1e-5)
        yield from compare_matrix(f"smooth {resolution}", smooth, arrays[f"matrix_smooth_{resolution}"], tolerance)
        yield from compare_matrix(f"plain {resolution}", plain, arrays[f"matrix_plain_{resolution}"], tolerance)
        width, height = align.crop_size(resolution)
        size = np.array(case.facts["facts"]["face_size_wh"][str(resolution)])
        yield compare(f"crop size {resolution}", np.array([width, height]), size, 0)
        yield from restored(case, frame, smooth[case.facts["picked_frame_index"]], resolution)
    yield from alignment_edges(case, frame)


def alignment_edges(case: GoldenCase, frame: np.ndarray) -> Iterator[Check]:
    arrays, tolerance = case.arrays, case.facts["tolerance"]
    swapped = align.align_matrix(arrays["landmarks_swapped"], 256)
    yield from compare_matrix("swapped brows", swapped, arrays["matrix_plain_256_swapped_brows"], tolerance)
    edge = align.align_matrix(arrays["landmarks_edge"], 256, align.Smoother())
    yield from compare_matrix("edge", edge, arrays["matrix_edge_256"], tolerance)
    yield from compare_image("edge face", align.warp_face(frame, edge, 256), arrays["face_edge_256"], tolerance)


def restored(case: GoldenCase, frame: np.ndarray, matrix: np.ndarray, resolution: int) -> Iterator[Check]:
    """The face of one frame, negated and pasted back: crop, blend weights, result."""
    arrays, tolerance, results = case.arrays, case.facts["tolerance"], case.facts["results"]
    face = align.warp_face(frame, matrix, resolution)
    steps: dict[str, np.ndarray] = {}
    output = paste_in_full(frame, face, matrix, steps)
    facts = results[f"restore_{resolution}"]
    y0, y1, x0, x1 = facts["box_y0y1x0x1"]
    outside = np.ones(frame.shape[:2], dtype=bool)
    outside[y0:y1, x0:x1] = False
    yield compare(f"outside {resolution}", output[outside], frame[outside], 0)
    yield Check(f"feather {resolution}", abs(feather.edge_width(steps["eroded"].sum()) - facts["w_edge"]), 0)
    middle_row, middle_column = (y0 + y1) // 2, (x0 + x1) // 2
    crop_rows = [0, 1, 100, 279]
    got = {
        "warped": align.colour_frame(align.warp_levels(frame, matrix, align.crop_size(resolution))),
        "face": face,
        "soft_mask_row": steps["soft"][middle_row, x0:x1],
        "soft_mask_col": steps["soft"][y0:y1, middle_column],
        "eroded_mask_row": steps["eroded"][middle_row, max(x0 - 40, 0) : x1 + 40],
        "resized_face_rows": steps["crop"][:, [row for row in crop_rows if row < steps["crop"].shape[1]]],
        "restored_region": output[y0:y1, x0:x1],
        "face_center": face[128:384, 128:384],
        "restored_region_center": center_of(output, results.get(f"restored_{resolution}_center_box")),
    }
    for name, value in got.items():
        want = arrays.get(golden_key(name, resolution))
        if want is None:
            continue
        if value.dtype == np.uint8:
            yield from compare_image(f"{name} {resolution}", value, want, tolerance)
        elif name == "resized_face_rows":  # an image in -1..1, compared in grey levels
            yield from compare_image(f"{name} {resolution}", value * 127.5, want * 127.5, tolerance)
        else:
            yield compare(f"{name} {resolution}", value, want, tolerance["soft_mask_max_abs"])


def golden_key(name: str, resolution: int) -> str:
    """The resolution stands before the part: soft_mask_row at 256 is recorded as soft_mask_256_row."""
    for part in ("_row", "_col", "_center"):
        if name.endswith(part):
            return f"{name.removesuffix(part)}_{resolution}{part}"
    return f"{name}_{resolution}"


def center_of(image: np.ndarray, box: list[int] | None) -> np.ndarray:
    y0, y1, x0, x1 = box or (0, 0, 0, 0)
    return image[y0:y1, x0:x1]


def mask_files(case: GoldenCase) -> Iterator[tuple[str, Path | None]]:
    """Name of each mask, and the image it is read from; the first is the network's own and comes from our table."""
    for name in case.facts["files"]:
        stem = Path(name).stem
        yield stem, None if stem == "mask" else case.path.parent / name


@golden("masks")
def all_masks(case: GoldenCase) -> Iterator[Check]:
    levels_512 = case.facts["tolerance"]["max_level_difference_at_512"]
    png = case.path.parent / case.facts["files"][0]
    yield compare("mask image", masks.mask_image(), masks.read_mask_image(png), 0)
    for name, path in mask_files(case):
        for resolution, facts in case.facts["masks"][name]["after_load_at_resolution"].items():
            mask = masks.load_mask(int(resolution), path)
            exact = int(resolution) == masks.MASK_SIZE
            yield Check(
                f"{name} mean {resolution}", abs(float(mask.double().mean()) - facts["mean"]), 1e-6 if exact else 1e-4
            )
            latents = int(resolution) // masks.LATENT_STRIDE
            want = case.arrays[f"{name}_latent_{latents}"]
            tolerance = 1e-7 if exact else levels_512 / 255 + 1e-6
            yield compare(f"{name} latent {latents}", masks.latent_mask(mask), want, tolerance)


def uint8_noise(case: GoldenCase, name: str, shape: list[int]) -> np.ndarray:
    return np.clip(np.round(127.5 + 60 * case.normal(name, shape).astype(np.float64)), 0, 255).astype(np.uint8)


@golden("image_prep")
def image_prep(case: GoldenCase) -> Iterator[Check]:
    inputs, arrays, tolerance = case.facts["inputs"], case.arrays, case.facts["tolerance"]
    mask = masks.load_mask(inputs["resolution"])
    yield compare("mask_uint8", (mask * 255).round().to(torch.uint8), arrays["mask_uint8"], 1)
    noise = uint8_noise(case, "prep_frames", inputs["frames"]["shape"])
    same = pixels.prepare_faces(uint8_noise(case, "prep_frames_same", inputs["frames_same"]["shape"]), mask)
    faces = pixels.prepare_faces(noise, mask)
    got = {
        "pixel_values": faces.pixels,
        "masked_pixel_values": faces.masked_pixels,
        "masks": faces.masks,
        "latent_masks": faces.latent_masks,
        "pixel_values_same": same.pixels,
        "masked_pixel_values_same": same.masked_pixels,
    }
    for name, value in got.items():
        yield compare(f"{name} max", value, arrays[name], tolerance["max_abs"])
        yield Check(f"{name} mean", float(np.abs(value.numpy() - arrays[name]).mean()), tolerance["mean_abs"])


class EchoDecoder:
    """Stands in for an auto-encoder and returns what its decoder is given."""

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents)


@golden("vae_facts")
def vae_facts(case: GoldenCase) -> Iterator[Check]:
    arrays, tolerance = case.arrays, case.facts["tolerance"]
    shape = arrays["pasted_binary"].shape
    mask_shape = (shape[0], 1, *shape[2:])
    original = case.tensor("pixel_values", shape).tanh()
    decoded = 1.2 * case.tensor("decoded", shape).tanh()
    field = case.tensor("masks", mask_shape)
    for name, mask in {"pasted_binary": (field > 0).float(), "pasted_soft": field.sigmoid()}.items():
        yield compare(name, pixels.keep_surroundings(decoded, original, mask), arrays[name], tolerance["max_abs"])
    yield compare("uint8_images", pixels.pixels_to_frames(decoded), arrays["uint8_images"], tolerance["uint8"])
    rule = case.facts["inputs"]["latents5d"]
    latents = case.tensor(rule["rule_name"], rule["shape"])
    received = vae.decode(cast(Any, EchoDecoder()), rearrange(latents, "b c f h w -> (b f) c h w"))
    yield compare("decoder_input", received, arrays["decoder_input"], tolerance["max_abs"])
