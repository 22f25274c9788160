"""Adapter to nvdiffrast (Laine et al., 2020), on CUDA: the visible face of each pixel.

nvdiffrast rounds vertices to 1/16 pixel, so a pixel at the border of a face may be assigned to a neighbouring face or
to the surface behind. It does not define which of two faces at equal depth is visible.
"""

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.errors import InputError

MAX_FACES = 1 << 24  # indices are returned as float32, which is exact up to here


def visible_faces(
    pixels: Float[Tensor, "B V 2"],
    depths: Float[Tensor, "B V"],
    faces: Int[Tensor, "F 3"],
    batch_ids: Int[Tensor, " S"],
    face_ids: Int[Tensor, " S"],
    height: int,
    width: int,
    perspective: bool,
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """Rasterize the S faces `face_ids` to the images `batch_ids` (ascending).

    Returns:
        Indices of the covered pixels in the flattened `[B, H, W]` images, ascending, and of the visible faces.
    Raises:
        InputError: If nvdiffrast is not installed, or the tensors are not on a CUDA device.
    """
    _refuse_other_devices(pixels.device)
    count, num_vertices = depths.shape
    if len(face_ids) > MAX_FACES:
        raise ValueError(
            f"nvdiffrast takes at most {MAX_FACES} faces, got {len(face_ids)}; rasterize fewer images at once"
        )
    if len(face_ids) == 0:
        return batch_ids, face_ids
    corner_ids = faces[face_ids] + batch_ids[:, None] * num_vertices
    clip = clip_coordinates(pixels, depths, depths.reshape(-1)[corner_ids], height, width, perspective)
    found, _ = _library().rasterize(
        _context(pixels.device),
        clip.reshape(-1, 4).contiguous(),
        corner_ids.int().contiguous(),
        (height, width),
        ranges=_ranges(batch_ids, count),
        grad_db=False,
    )
    hits = found[..., 3].reshape(-1).long()  # index + 1; 0 for background
    pixel_ids = torch.nonzero(hits)[:, 0]
    return pixel_ids, face_ids[hits[pixel_ids] - 1]


def clip_coordinates(
    pixels: Float[Tensor, "B V 2"],
    depths: Float[Tensor, "B V"],
    corner_depths: Float[Tensor, "S 3"],
    height: int,
    width: int,
    perspective: bool,
) -> Float[Tensor, "B V 4"]:
    """Vertices as (x, y, z, w): x / w and y / w are -1 to 1 across the image from row 0; z / w increases with depth."""
    ndc = 2 * pixels / pixels.new_tensor([width, height]) - 1
    # Slightly beyond the range of the given faces, so that rounding clips none.
    near, far = 0.999 * corner_depths.amin(), 1.001 * corner_depths.amax()
    if perspective:
        z = ((far + near) * depths - 2 * far * near) / (far - near)
        return torch.cat([ndc * depths[..., None], z[..., None], depths[..., None]], -1)
    z = (2 * depths - far - near) / (far - near)
    return torch.cat([ndc, z[..., None], torch.ones_like(z)[..., None]], -1)


def _ranges(batch_ids: Int[Tensor, " S"], count: int) -> Int[Tensor, "B 2"]:
    """First face and number of faces of each image, on the CPU."""
    lengths = torch.bincount(batch_ids, minlength=count)
    return torch.stack([lengths.cumsum(0) - lengths, lengths], -1).int().cpu()


def _refuse_other_devices(device: torch.device) -> None:
    if device.type != "cuda":
        raise InputError(f"nvdiffrast needs CUDA tensors, got tensors on {device}; choose backend torch")


def _library():
    try:
        import nvdiffrast.torch
    except (ImportError, OSError) as error:
        reason = str(error).partition("\n")[0]
        remedy = "see requirements-cuda.txt, or choose backend torch"
        raise InputError(f"nvdiffrast cannot be loaded: {reason}; {remedy}") from error
    return nvdiffrast.torch


@functools.cache
def _context(device: torch.device):
    """Context of nvdiffrast for a device; its buffers grow with the images and are kept."""
    return _library().RasterizeCudaContext(device)
