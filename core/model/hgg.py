"""Human Gaussian Graph: a few frames of a person in, an animatable avatar out. The forward pass, box by box:

    input images, cameras                                              fits
             |                                                          |  body model: posed bodies
             v                                                          |  (smpl_renderer/body_model.py)
    +-- U-Net ------------------+                                       |
    | unet.py                   |  splat maps of every view             |
    +---------------------------+                                       |
             v                                                          |
    +-- frame Gaussians --------+                                       |
    | frame_gaussians.py        |  a Gaussian per pixel, its vertex  <--+
    +---------------------------+                                       |
             v                                                          |
    +-- graph ------------------+                                       |
    | graph.py                  |  features of each vertex's queries <--+
    +---------------------------+                                       |
             v                                                          |
    +-- head -------------------+                                       |
    | heads.py                  |  Gaussians in the canonical space     |
    +---------------------------+                                       |
             v                                                          |
    +-- image colour sampling --+                                       |
    | color_sampling.py         |  colours from the input pixels     <--+
    +---------------------------+                                       |
             v                                                          |
    +-- colour attention -------+                                       |
    | color_attention.py        |  colours of what no image shows       |
    +---------------------------+                                       |
             v                                                          |
    +-- feedback ---------------+                                       |
    | feedback.py               |  rendered, compared, corrected     <--+
    +---------------------------+
             v
          avatar

`decode.py` holds the order and the activations of a Gaussian's raw channels, `surface.py` the initial placement of
Gaussians on the body.

Liu et al., Human Gaussian Graph (ICCV 2025). The vertex head, attention to patches (patches.py), image colour
sampling, colour attention and feedback are not in the paper.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.avatar.avatar import Avatar
from core.model.body_transfer import BodyBridge
from core.model.color_attention import ColorAttention
from core.model.color_sampling import ColorSampling
from core.model.decode import RAW_CHANNELS
from core.model.feedback import Feedback, captures_feedback
from core.model.frame_gaussians import FrameGaussians, decode_frames
from core.model.graph import KEY_GEOMETRY_CHANNELS, BodyGraph, build_edges, describe_gaussians
from core.model.heads import ResidualHead, VertexHead
from core.model.patches import split_surface
from core.model.surface import surface_axes
from core.model.unet import UNet
from core.ops.color_observations import observe
from core.ops.nearest_vertices import NearestSearch, check_nearest_search
from core.options import ModelOptions
from core.runtime.cuda_graphs import AsyncCount
from core.types.frames import Frames
from core.utils.resample import resample_area
from smpl_renderer.body_model import BodyModel
from smpl_renderer.connectivity import Connectivity, build_connectivity
from smpl_renderer.errors import InputError
from smpl_renderer.types import PosedBody

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelOutput:
    """The avatar of each subject, and the frame Gaussians that it was made from."""

    avatar: Avatar
    frame: FrameGaussians


class HumanGaussianGraph(nn.Module):
    """The whole network. Its `state_dict` contains no array of the body model.

    Args:
        options: Sizes, head, and whether there are image colour sampling and feedback.
        body: Body model of the fits.
        connectivity: Its neighbourhoods; by default they are built.
    Raises:
        InputError: If the connectivity belongs to another body, or has another number of neighbours.
    """

    def __init__(self, options: ModelOptions, body: BodyModel, connectivity: Connectivity | None = None):
        super().__init__()
        if connectivity is None:
            connectivity = build_connectivity(body, options.graph.neighbors)
        _check_connectivity(connectivity, body, options.graph.neighbors)
        graph = options.graph
        patches = split_surface(body, graph.patches) if graph.patches else None
        self.options = options
        self.body = body
        self.bridge: BodyBridge | None = None
        self.nearest_search: NearestSearch = "auto"
        self.unet = UNet(options.unet, RAW_CHANNELS)
        self.graph = BodyGraph(graph, self.unet.feature_channels + KEY_GEOMETRY_CHANNELS, connectivity, patches)
        if graph.head == "vertex":
            self.head = VertexHead(graph, body)
        else:
            self.head = ResidualHead(graph, self.unet.feature_channels, body)
        self.color_sampling = ColorSampling(graph.features) if options.color_sampling else None
        self.color_attention = None
        if patches is not None and options.color_sampling and graph.head == "vertex":
            self.color_attention = ColorAttention(graph.features, patches, graph.queries, is_last=not options.feedback)
        self.feedback = Feedback(graph.features, options.feedback) if options.feedback else None
        self.register_buffer("axes", surface_axes(body)[0], persistent=False)
        self.register_buffer("color_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("color_std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    @property
    def posed_body(self) -> BodyModel:
        """The body that fits are posed with: the mesh of the training, with the surface of `output_body`."""
        return self.body if self.bridge is None else self.bridge.proxy

    @property
    def output_body(self) -> BodyModel:
        """The body of the inputs' fits and of the avatars: that of the training, `body`, unless there is a bridge."""
        return self.body if self.bridge is None else self.bridge.target

    def use_body(self, body: BodyModel) -> None:
        """Make avatars of another body, from fits of it (about two seconds). Parameters do not change."""
        self.bridge = None if body.fingerprint == self.body.fingerprint else BodyBridge(self.body, body)

    def forward(self, inputs: Frames) -> ModelOutput:
        """Make the avatars of B subjects from F frames of each, in C views (`inputs` has batch axes B)."""
        posed = self.posed_body.pose(inputs.body)
        frame = self._decode_frames(inputs, posed)
        edges = build_edges(frame.vertex_ids, frame.mask, self.posed_body.num_vertices, frame.num_foreground)
        queries = self.graph(describe_gaussians(frame, posed, self.axes, edges), edges)

        betas = inputs.body.betas.mean(1)
        if isinstance(self.head, VertexHead):
            avatar, context = self.head(queries, betas)
        else:
            avatar, context = self.head(queries, betas, frame, posed)
        if self.color_sampling is not None:
            seen = observe(avatar, self.axes[..., 2], inputs, posed)
            avatar = self.color_sampling(avatar, context, seen)
            if self.color_attention is not None:
                avatar, context = self.color_attention(avatar, context, seen)
        if self.feedback is not None:
            avatar = self.feedback(avatar, context, self.axes, inputs, posed)
        if self.bridge is not None:
            avatar = self.bridge(avatar)
        return ModelOutput(avatar, frame)

    def frame_gaussians(self, inputs: Frames) -> FrameGaussians:
        """The first two boxes only: Gaussians of each frame (stage `frame`), with vertices of `posed_body`."""
        return self._decode_frames(inputs, self.posed_body.pose(inputs.body))

    def _decode_frames(self, inputs: Frames, posed: PosedBody) -> FrameGaussians:
        size = self.options.unet.splat_size
        foreground = resample_area(inputs.alphas, size)[..., 0, :, :] > 0.5
        num_foreground = AsyncCount(foreground)  # copied to the host while the U-Net runs
        raw, features = self.unet(self._unet_input(inputs).flatten(0, 1))
        batch = inputs.images.shape[:2]
        with torch.autocast(raw.device.type, enabled=False):
            return decode_frames(
                raw.unflatten(0, batch),
                features.unflatten(0, batch),
                resample_area(inputs.images, size),
                foreground,
                num_foreground,
                inputs.cameras.resized(size, size),
                posed,
                self.posed_body.faces,
                self.nearest_search,
            )

    def _unet_input(self, inputs: Frames) -> Float[Tensor, "B F C 9 H W"]:
        """Normalised colours and Plücker coordinates of the input images' pixels."""
        size = self.options.unet.input_size
        colors = (resample_area(inputs.images, size) - self.color_mean) / self.color_std
        with torch.autocast(colors.device.type, enabled=False):
            rays = inputs.cameras.resized(size, size).plucker()
        # Channels are last in memory, the order that convolutions prefer.
        return torch.cat([colors.movedim(-3, -1), rays.movedim(-3, -1)], -1).movedim(-1, -3)

    def use_cuda_graphs(self, enabled: bool, trains_unet: bool) -> None:
        """Enable or disable CUDA graphs of the U-Net, the graph and the feedback, one for each input signature.

        Without them, the host needs more time to launch these parts than the device needs to run them.

        Args:
            trains_unet: True if the U-Net has gradients. Otherwise its frozen copy is captured.
        """
        self.unet.frozen.graph_cache.enabled = enabled and not trains_unet
        self.unet.graph_cache.enabled = enabled and trains_unet
        self.graph.graph_cache.enabled = enabled
        if self.feedback is not None:
            self.feedback.graph_cache.enabled = enabled and captures_feedback()

    def set_backend(self, backend: str) -> None:
        """Choose the rasterizer of the feedback, by a name as for `core.render.rasterize`."""
        if self.feedback is not None:
            self.feedback.backend = backend

    def set_nearest_search(self, search: NearestSearch) -> None:
        """Choose the search for the nearest vertex of each frame Gaussian.

        Raises:
            InputError: If it does not exist, or is not installed.
        """
        check_nearest_search(search)
        self.nearest_search = search


def _check_connectivity(connectivity: Connectivity, body: BodyModel, num_neighbors: int) -> None:
    if connectivity.fingerprint != body.fingerprint:
        raise InputError(f"the connectivity belongs to body {connectivity.fingerprint}, not to {body.fingerprint}")
    found = connectivity.neighbors.shape[1]
    if found != num_neighbors:
        raise InputError(
            f"the connectivity has {found} neighbours of each vertex, the network {num_neighbors}; write it again with "
            f"vertex_connectivity.py --num-neighbors {num_neighbors}"
        )
