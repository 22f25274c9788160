"""Human Gaussian Graph: a few moments of a person in, an animatable avatar out.

    pictures, cameras --U-Net--> Gaussians of each moment          frame_gaussians
    Gaussians, fits --nearest vertex--> ties to the body           tie
    graph: queries on the body's vertices gather and share         BodyGraph
    head: queries become the avatar's Gaussians                    VertexHead | ResidualHead
    second look: their colours from the pixels that see them       SecondLook
    feedback: drawn, compared with the pictures, corrected         Feedback

Liu et al., Human Gaussian Graph (ICCV 2025); the vertex head, the second look and the feedback are ours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from core.avatar.avatar import Avatar
from core.avatar.skinning import at_vertices
from core.model.color_sampling import ColorSampling
from core.model.decode import RAW_CHANNELS, decode_pixels
from core.model.depths import surface_depths
from core.model.edges import GaussianVertexEdges, build_edges
from core.model.feedback import Feedback
from core.model.graph import BodyGraph
from core.model.heads import ResidualHead, VertexHead, unpose_gaussians
from core.model.surface import surface_axes
from core.model.unet import UNet
from core.ops.nearest_vertices import nearest_vertices
from core.options import ModelOptions
from core.runtime.async_count import AsyncCount
from core.types.frames import Frames
from core.types.gaussians import Gaussians
from core.utils.resample import resample_area
from smpl_renderer.body_model import BodyModel
from smpl_renderer.connectivity import Connectivity, build_connectivity
from smpl_renderer.errors import InputError
from smpl_renderer.types import PosedBody

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

KEY_NUMBERS = 3 + 3 + 3 + 1
"""What a key holds besides the U-Net's features: offset from the vertex, direction to the camera, colour, opacity."""
KEY_OFFSET_UNIT = 0.1
MAX_KEY_OFFSET = 0.3
"""Metres: the scale of the offsets in keys, and where they end."""


@dataclass(frozen=True)
class FrameGaussians:
    """What the U-Net sees in each moment: C splat maps of S x S pixels, M = C*S*S Gaussians."""

    gaussians: Gaussians
    """Batch axes `B F`, in each moment's subject frame."""
    features: Float[Tensor, "B F M K"]
    towards_camera: Float[Tensor, "B F M 3"]
    """Unit vectors to the camera that a Gaussian comes from."""
    vertex_ids: Int[Tensor, "B F M"]
    """The nearest vertex of the posed body; 0 outside the mask."""
    distances: Float[Tensor, "B F M"]
    """Metres to that vertex, with a gradient with respect to the means; 0 outside the mask."""
    mask: Bool[Tensor, "B F M"]
    """Which Gaussians lie on the person; the others have opacity 0."""
    inside: AsyncCount
    """How many."""


@dataclass(frozen=True)
class ModelOutput:
    """An avatar for each person, and the Gaussians that it was made from."""

    avatar: Avatar
    frame: FrameGaussians


class HumanGaussianGraph(nn.Module):
    """The whole network. Its `state_dict` holds nothing of the body model.

    Args:
        options: Sizes, head, and whether there are a second look and feedback.
        body: The body that the fits are made with.
        connectivity: Its neighbourhoods; built when not given.
    Raises:
        InputError: If the connectivity belongs to another body, or is of another size.
    """

    def __init__(self, options: ModelOptions, body: BodyModel, connectivity: Connectivity | None = None):
        super().__init__()
        if connectivity is None:
            connectivity = build_connectivity(body, options.graph.neighbors)
        elif connectivity.fingerprint != body.fingerprint:
            raise InputError(f"the connectivity belongs to body {connectivity.fingerprint}, not to {body.fingerprint}")
        graph = options.graph
        if connectivity.neighbors.shape[1] != graph.neighbors:
            raise InputError(
                f"the connectivity has {connectivity.neighbors.shape[1]} neighbours of each vertex, the network "
                f"{graph.neighbors}; write it anew with vertex_connectivity.py --num-neighbors {graph.neighbors}"
            )
        self.options = options
        self.body = body
        self.unet = UNet(options.unet, RAW_CHANNELS)
        self.graph = BodyGraph(graph, self.unet.feature_channels + KEY_NUMBERS, connectivity)
        if graph.head == "vertex":
            self.head = VertexHead(graph, body)
        else:
            self.head = ResidualHead(graph, self.unet.feature_channels)
        self.color_sampling = ColorSampling(graph.features) if options.color_sampling else None
        self.feedback = Feedback(graph.features, options.feedback) if options.feedback else None
        self.register_buffer("axes", surface_axes(body)[0], persistent=False)
        self.register_buffer("color_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("color_std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def use_cuda_graphs(self, enabled: bool, trains_unet: bool) -> None:
        """Play launches of the U-Net and of the graph from recordings, one for each kind of input, or do not.

        They take the host longer than their work takes the device.

        Args:
            trains_unet: Whether the U-Net has gradients; else it is its frozen copy that is recorded.
        """
        self.unet.frozen.graph_cache.enabled = enabled and not trains_unet
        self.unet.graph_cache.enabled = enabled and trains_unet
        self.graph.graph_cache.enabled = enabled

    def set_backend(self, backend: str) -> None:
        """Choose the rasterizer that feedback draws with, a name as in `core.render.rasterize`."""
        if self.feedback is not None:
            self.feedback.backend = backend

    def forward(self, inputs: Frames) -> ModelOutput:
        """Make avatars of B persons from F moments of each (`inputs` has batch axes B)."""
        posed = self.body.pose(inputs.body)
        frame = self._frame_gaussians(inputs, posed)
        edges = build_edges(frame.vertex_ids, frame.mask, self.body.num_vertices, frame.inside)
        queries = self.graph(self._keys(frame, posed, edges), edges)

        betas = inputs.body.betas.mean(1)
        if isinstance(self.head, VertexHead):
            avatar, context = self.head(queries, betas)
        else:
            reference = unpose_gaussians(
                frame.gaussians[:, 0], frame.vertex_ids[:, 0], posed[:, 0], betas=betas, body=self.body.fingerprint
            )
            avatar, context = self.head(reference, frame.features[:, 0], queries)
        if self.color_sampling is not None:
            avatar = self.color_sampling(avatar, context, self.axes[..., 2], inputs, posed)
        if self.feedback is not None:
            avatar = self.feedback(avatar, context, self.axes, inputs, posed)
        return ModelOutput(avatar, frame)

    def frame_gaussians(self, inputs: Frames) -> FrameGaussians:
        """Only the first half: Gaussians of each moment by itself (stage `frame`)."""
        return self._frame_gaussians(inputs, self.body.pose(inputs.body))

    def _frame_gaussians(self, inputs: Frames, posed: PosedBody) -> FrameGaussians:
        size = self.options.unet.splat_size
        foreground = resample_area(inputs.alphas, size)[..., 0, :, :] > 0.5
        inside = AsyncCount(foreground)  # reaches the host while the U-Net is at work
        raw, features = self.unet(self._network_input(inputs).flatten(0, 1))
        with torch.autocast(raw.device.type, enabled=False):
            batch = inputs.images.shape[:2]
            cameras = inputs.cameras.resized(size, size)
            depths = surface_depths(posed.vertices, self.body.faces, cameras)
            colors = resample_area(inputs.images, size)
            gaussians = decode_pixels(raw.unflatten(0, batch), cameras, depths, colors, foreground)
            mask = foreground.flatten(2)
            gaussians = gaussians.map(lambda x: x.flatten(2, 3))  # all views of a moment
            towards_camera = cameras.centers.repeat_interleave(size * size, 2) - gaussians.means
            vertex_ids = nearest_vertices(gaussians.means, posed.vertices, mask)
            gaps = gaussians.means - at_vertices(posed.vertices, vertex_ids)
            distances = torch.linalg.vector_norm(gaps, dim=-1) * mask
            return FrameGaussians(
                gaussians=gaussians,
                features=features.unflatten(0, batch).movedim(3, -1).flatten(2, 4),
                towards_camera=normalize(towards_camera, dim=-1),
                vertex_ids=vertex_ids,
                distances=distances,
                mask=mask,
                inside=inside,
            )

    def _network_input(self, inputs: Frames) -> Float[Tensor, "B F C 9 H W"]:
        size = self.options.unet.input_size
        colors = (resample_area(inputs.images, size) - self.color_mean) / self.color_std
        with torch.autocast(colors.device.type, enabled=False):
            rays = inputs.cameras.resized(size, size).plucker()
        # Channels last in memory, as convolutions want them.
        return torch.cat([colors.movedim(-3, -1), rays.movedim(-3, -1)], -1).movedim(-1, -3)

    def _keys(self, frame: FrameGaussians, posed: PosedBody, edges: GaussianVertexEdges) -> Float[Tensor, "E K"]:
        """Describe the tied Gaussians, with directions in the axes of their vertex's skin, whatever its pose.

        Offsets are turned back by a rotation rather than by the inverse of the skinning matrix: the same up to the
        skin's stretch, and bounded where that matrix is nearly singular.
        """
        with torch.autocast(frame.distances.device.type, enabled=False):
            axes = edges.take(at_vertices(posed.rotations @ self.axes, frame.vertex_ids))  # [E, 3, 3]
            gaps = frame.gaussians.means - at_vertices(posed.vertices, frame.vertex_ids)
            gaps = edges.take(gaps / posed.scale[..., None, None]).clamp(-MAX_KEY_OFFSET, MAX_KEY_OFFSET)
            offsets = torch.einsum("eji,ej->ei", axes, gaps) / KEY_OFFSET_UNIT
            directions = torch.einsum("eji,ej->ei", axes, edges.take(frame.towards_camera))
            rest = [edges.take(x) for x in (frame.gaussians.colors, frame.gaussians.opacities[..., None])]
            return torch.cat([edges.take(frame.features).float(), offsets, directions, *rest], -1)
