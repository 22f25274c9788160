"""The avatar: Gaussians of the rest pose, each tied to a vertex of the body, and how they follow the body's pose."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.render import Rendering, rasterize
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from core.utils.resample import average_blocks
from smpl_renderer import dispatch as kernels
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.skinning import transform_points
from smpl_renderer.types import BodyParams, Skin

FORMAT = "hgg-avatar"
VERSION = "1"


@dataclass(frozen=True)
class Avatar:
    """A person as Gaussians in the canonical space: the body's rest pose, with the person's shape.

    A Gaussian's canonical centre is its vertex plus its offset, so that it keeps its place on the skin when the shape
    changes.
    """

    offsets: Float[Tensor, "*batch N 3"]
    """From the vertex to the centre, in metres, along the canonical axes."""
    quats: Float[Tensor, "*batch N 4"]
    """Rotations (w, x, y, z) from local to canonical axes."""
    scales: Float[Tensor, "*batch N 3"]
    """Standard deviations along the local axes, in metres, for a body of scale 1."""
    opacities: Float[Tensor, "*batch N"]
    colors: Float[Tensor, "*batch N 3"]
    vertex_ids: Int[Tensor, "*batch N"]
    """The vertex that each Gaussian is tied to."""
    betas: Float[Tensor, "*batch S"]
    """The person's shape."""
    body: str
    """Fingerprint of the body model that the vertices belong to."""

    @property
    def batch_shape(self) -> torch.Size:
        return self.opacities.shape[:-1]

    @property
    def count(self) -> int:
        """Gaussians of each avatar (N)."""
        return self.opacities.shape[-1]

    def map(self, fn) -> "Avatar":
        """Apply `fn` to every tensor."""
        return replace(self, **{name: fn(getattr(self, name)) for name in _TENSORS})

    def to(self, device) -> "Avatar":
        return self.map(lambda x: x.to(device))

    def detach(self) -> "Avatar":
        return self.map(Tensor.detach)

    def __getitem__(self, index) -> "Avatar":
        """Index the batch axes (not the axis of Gaussians)."""
        return self.map(lambda x: x[index])


_TENSORS = tuple(f.name for f in fields(Avatar) if f.name != "body")


def pose_skin(body: BodyModel, params: BodyParams) -> Skin:
    """Pose a body, any batch axes."""
    return body.skin(params)


def attach_reference(avatar: Avatar, skin: Skin) -> Gaussians:
    """Define `attach` in plain PyTorch, for any device and dtype."""
    vertex_ids = avatar.vertex_ids.unsqueeze(-2)
    centres = at_vertices(skin.body.shaped, vertex_ids) + avatar.offsets.unsqueeze(-3)
    turns = at_vertices(skin.quats, vertex_ids)
    shape = turns.shape[:-1]
    return Gaussians(
        means=transform_points(centres, at_vertices(skin.body.vertex_transforms, vertex_ids)),
        quats=quat_multiply(turns, avatar.quats.unsqueeze(-3)),
        scales=avatar.scales.unsqueeze(-3) * skin.scale[..., None, None],
        opacities=avatar.opacities.unsqueeze(-2).expand(shape),
        colors=avatar.colors.unsqueeze(-3).expand(*shape, 3),
    )


def attach(avatar: Avatar, skin: Skin) -> Gaussians:
    """Carry avatars along with their skins.

    Centres move by their vertex's transform. Rotations turn by the nearest rotation of it and sizes change by the
    body's scale only, because a blend of bone transforms is no similarity (a wrist twisted by 3 rad collapses the skin
    to 0.005 of its volume).

    Gradients reach the avatar and the skin; float32 on CUDA runs in Triton, unless a gradient is asked of the skin.

    Args:
        avatar: With batch axes `*batch`.
        skin: With batch axes `*batch P`, P poses of each avatar.
    Returns:
        Gaussians of batch axes `*batch P`, in the world of the poses; opacities and colours are expanded, not copied.
    """
    with torch.autocast(avatar.offsets.device.type, enabled=False):
        if not _kernels_take(avatar, skin):
            return attach_reference(avatar, skin)
        from core.avatar.skinning_kernel import carry  # needs Triton

        means, quats, scales = carry(avatar.offsets, avatar.quats, avatar.scales, avatar.vertex_ids, skin)
        shape = means.shape[:-1]
        return Gaussians(
            means,
            quats,
            scales,
            opacities=avatar.opacities.unsqueeze(-2).expand(shape),
            colors=avatar.colors.unsqueeze(-3).expand(*shape, 3),
        )


def _kernels_take(avatar: Avatar, skin: Skin) -> bool:
    own = (avatar.offsets, avatar.quats, avatar.scales)
    return (
        skin.scale.shape[:-1] == avatar.batch_shape
        and kernels.takes(skin.body.vertices, skin.body.vertex_transforms, skin.quats, skin.scale)
        and kernels.takes(*(x.detach() for x in own))
    )


def at_vertices(values: Float[Tensor, "..."], vertex_ids: Int[Tensor, "*batch N"]) -> Float[Tensor, "..."]:
    """The values `[*batch, V, ...]` of the named vertices, `[*batch, N, ...]`; batch axes broadcast."""
    axis = vertex_ids.ndim - 1
    index = vertex_ids.reshape(*vertex_ids.shape, *[1] * (values.ndim - vertex_ids.ndim))
    return torch.take_along_dim(values, index, axis)


def pose_avatar(avatar: Avatar, body: BodyModel, params: BodyParams) -> Gaussians:
    """Gaussians of avatars `[*batch]` in poses `[*batch, P]`, in the world of the poses.

    The shape is `params.betas`: that of a fit, when the avatar goes back into the frame of that fit, and `avatar.betas`
    when it moves freely.

    Raises:
        InputError: If the avatar belongs to another body model.
    """
    if avatar.body != body.fingerprint:
        raise InputError(f"the avatar belongs to body {avatar.body}, not to {body.name} ({body.fingerprint})")
    return attach(avatar, pose_skin(body, params))


def canonical_gaussians(avatar: Avatar, body: BodyModel) -> Gaussians:
    """Gaussians of avatars `[*batch]` in the rest pose, unmoved."""
    shaped = body.shape_vertices(avatar.betas)
    return Gaussians(
        means=at_vertices(shaped, avatar.vertex_ids) + avatar.offsets,
        quats=avatar.quats,
        scales=avatar.scales,
        opacities=avatar.opacities,
        colors=avatar.colors,
    )


def enlargement(size: int, trained_size: int | None) -> int:
    """How many times as large as its picture an avatar is to be drawn: at least as large as training drew it.

    Every splat is widened by the same part of a pixel (`core.render.projection.DILATION`). Training makes up for that
    in the size that it draws in; in a smaller picture, whose pixels are larger, the avatar would look fat.

    Args:
        size: Pixels of the picture.
        trained_size: Pixels of those that the network's training drew; None if that is not known.
    """
    return max(1, math.ceil((trained_size or 0) / size))


def render_avatar(
    avatar: Avatar,
    body: BodyModel,
    params: BodyParams,
    cameras: Cameras,
    *,
    background: float | Float[Tensor, "3"] = 1.0,
    backend: str = "auto",
    enlarge: int = 1,
) -> Rendering:
    """Draw avatars `[*batch]` in poses `[*batch, P]`, each pose from cameras `[*batch, P, C]` in its own world.

    Args:
        background, backend, enlarge: As for `render_gaussians`.
    """
    gaussians = pose_avatar(avatar, body, params)
    return render_gaussians(gaussians, cameras, background=background, backend=backend, enlarge=enlarge)


def render_gaussians(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: float | Float[Tensor, "3"] = 1.0,
    backend: str = "auto",
    enlarge: int = 1,
) -> Rendering:
    """Draw sets of Gaussians `[*batch]`, each set from its own cameras `[*batch, C]`.

    Args:
        background: Grey value or colour.
        backend: Rasterizer, as for `rasterize`.
        enlarge: Draw this many times as large (see `enlargement`), and average: a photograph's pixels are means, too.
    """
    if enlarge > 1:
        large = cameras.resized(enlarge * cameras.width, enlarge * cameras.height)
        rendering = render_gaussians(gaussians, large, background=background, backend=backend)
        return rendering.map(lambda x: average_blocks(x, enlarge))
    size = cameras.width, cameras.height
    return rasterize(gaussians, cameras.viewmats, cameras.Ks, *size, background=background, backend=backend)


def save_avatar(path: Path, avatar: Avatar) -> None:
    """Write one avatar (or a batch) as safetensors."""
    tensors = {name: getattr(avatar, name).detach().cpu().contiguous() for name in _TENSORS}
    metadata = {"format": FORMAT, "version": VERSION, "body": avatar.body}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_avatar(path: Path, device: torch.device | str = "cpu") -> Avatar:
    """Read an avatar that `save_avatar` wrote.

    Raises:
        InputError: If the file is missing, or is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such avatar file; infer.py writes one for each subject")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); give an avatar written by infer.py") from error
    if metadata.get("format") != FORMAT or set(tensors) != set(_TENSORS):
        raise InputError(f"{path}: holds no avatar; give one written by infer.py")
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{path}: avatar format {metadata.get('version')}, but this program reads {VERSION}; make it anew"
        )
    return Avatar(**tensors, body=metadata["body"])
