"""Checkpoints: parameters as safetensors, with everything needed to rebuild the network in the metadata.

A checkpoint holds only parameters of the network. The body model, whose licence may forbid redistribution, is
identified by its fingerprint and must be available where the checkpoint is used.
"""

import json
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.model.body_transfer import transfer_parameters
from core.model.hgg import HumanGaussianGraph
from core.options import ModelOptions
from core.utils.aliases import current_options, current_parameters
from core.utils.options_json import options_from_json, options_to_json
from core.utils.ranges import MAX_IMAGE_SIZE, check_ranges
from smpl_renderer.body_files import find_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import CONTENT_ERRORS, load_json
from smpl_renderer.connectivity import Connectivity, build_connectivity
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.tensor_files import open_tensors, save_tensors

logger = logging.getLogger(__name__)

FORMAT = "human-gaussian-graph"
VERSION = "2"
MAX_CHECKPOINT_BYTES = 2**33
"""Largest checkpoint; that of the preset `big` has 1.7 GB."""

Metadata = dict[str, str]
"""`format`, `version`, `options` (ModelOptions, JSON), `body` (fingerprint), `body_name`, `step`, `data` (stamp of the
training captures), `training` (TrainOptions, JSON) and `trainings` (`read_trainings`). Unknown entries are empty or
missing."""


@dataclass(frozen=True)
class Training:
    """A training run that produced or preceded a checkpoint. None stands for unknown."""

    stage: str
    steps: int
    subjects: int | None
    """Subjects per step, over all processes."""
    image_size: int | None
    """Side of the target images in pixels."""
    minutes: float | None
    """Wall time, including evaluations. It is stored beside the checkpoint: equal trainings have equal checkpoints."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Training":
        """Build from the fields that `asdict` gave, in this or an earlier version."""
        return cls(**current_options(values, [f.name for f in fields(cls)]))

    def check(self) -> None:
        """Raise ValueError for values of other types, or out of range."""
        counts = [self.steps, *(count for count in (self.subjects, self.image_size) if count is not None)]
        if not isinstance(self.stage, str) or not all(type(count) is int and 0 <= count < 2**63 for count in counts):
            raise ValueError("a training has a stage and counts")
        if self.minutes is not None and not (type(self.minutes) in (int, float) and 0 <= self.minutes < math.inf):
            raise ValueError(f"a training of {self.minutes} minutes")


def save_checkpoint(
    path: Path,
    model: HumanGaussianGraph,
    *,
    step: int = 0,
    data: str = "",
    training: str = "",
    trainings: Sequence[Training] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the parameters and metadata of a network atomically, and the times of its trainings beside it.

    Args:
        step: Number of training steps so far.
        data: Stamp of the training data.
        training: Options of the run, as JSON.
        trainings: The runs that led to the network, through `--init`, the oldest first and this run last.
        dtype: Floating-point dtype in the file; `torch.float16` halves its size.
    Raises:
        ValueError: If a parameter is not finite in `dtype`.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite in {dtype}; choose a dtype of larger range")
        tensors[name] = tensor
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "options": options_to_json(model.options),
        "body": model.body.fingerprint,
        "body_name": model.body.name,
        "step": str(step),
        "data": data,
        "training": training,
        "trainings": json.dumps([asdict(replace(run, minutes=None)) for run in trainings]) if trainings else "",
    }
    if trainings:
        times = {"steps": [run.steps for run in trainings], "minutes": [run.minutes for run in trainings]}
        with atomic_path(times_file(path)) as temporary:
            temporary.write_text(json.dumps(times) + "\n", encoding="utf-8")
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors, metadata)


def read_metadata(path: Path) -> Metadata:
    """Metadata of a checkpoint.

    Raises:
        InputError: If the file is missing, not a checkpoint of this project, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; pass a .safetensors file that training wrote")
    with _open(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint of this project: its metadata lacks format {FORMAT}; "
            "pass a file that training wrote"
        )
    if metadata.get("version") != VERSION:
        found = metadata.get("version")
        raise InputError(
            f"{path} has checkpoint version {found}, expected {VERSION}; use the version of this program that wrote it"
        )
    if missing := sorted({"options", "body", "body_name"} - metadata.keys()):
        raise InputError(f"{path}: its metadata lacks {missing[0]}; copy it again, or use another checkpoint")
    try:
        read_training_options(metadata)
        trainings = read_trainings(metadata)
    except CONTENT_ERRORS as error:
        raise InputError(
            f"{path}: its metadata do not describe trainings ({error}); copy it again, or use another checkpoint"
        ) from error
    return metadata | _with_times(path, trainings) if metadata.get("trainings") else metadata


def times_file(path: Path) -> Path:
    """File beside a checkpoint with the minutes of its trainings."""
    return path.with_suffix(".minutes.json")


def _with_times(path: Path, trainings: list[Training]) -> Metadata:
    """The entry `trainings` with the minutes that are stored beside a checkpoint, where these belong to it."""
    with suppress(*CONTENT_ERRORS):  # of a file that is missing, or another
        times = load_json(times_file(path))
        timed = [replace(run, minutes=minutes) for run, minutes in zip(trainings, times["minutes"], strict=True)]
        for run in timed:
            run.check()
        if times["steps"] == [run.steps for run in trainings]:
            trainings = timed
    return {"trainings": json.dumps([asdict(run) for run in trainings])}


def read_training_options(metadata: Metadata) -> dict[str, Any]:
    """Options of the last training run of a checkpoint, as nested dictionaries; empty if not recorded.

    Raises:
        Exception: One of `CONTENT_ERRORS`, if they are no such dictionaries.
    """
    options = json.loads(metadata.get("training") or "{}")
    data = options.get("data", {})
    size, crop = data.get("image_size", 1), data.get("crop", "center")
    if type(size) is not int or not 1 <= size <= MAX_IMAGE_SIZE or crop not in ("center", "person"):
        raise ValueError(f"training on images of {size} pixels, cropped by {crop}")
    return options


def read_trainings(metadata: Metadata) -> list[Training]:
    """Training runs that led to a checkpoint, the oldest first. If not recorded, what is known of the last one."""
    if metadata.get("trainings"):
        trainings = [Training.from_dict(values) for values in json.loads(metadata["trainings"])]
    else:
        options = read_training_options(metadata)
        size = options.get("data", {}).get("image_size")
        trainings = [Training(options.get("stage", ""), int(metadata.get("step") or 0), None, size, None)]
    for training in trainings:
        training.check()
    return trainings


def load_checkpoint(
    path: Path, body: BodyModel | None = None, device: torch.device | str = "cpu"
) -> tuple[HumanGaussianGraph, Metadata]:
    """Load a network in evaluation mode, in float32, and the metadata of its checkpoint.

    Args:
        body: The body of fits and avatars; by default that of the training, found by its fingerprint. The network runs
            on another one with the mesh of its training (`HumanGaussianGraph.use_body`).
    Raises:
        InputError: If the file is not a usable checkpoint, or the body of its training is needed and not found.
    """
    metadata = read_metadata(path)
    options = _model_options(metadata, path)
    trained = find_body(metadata["body"]) if body is None else _body_of_training(metadata, body, path)
    connectivity = build_connectivity(trained, options.graph.neighbors)
    _check_shapes(path, options, trained, connectivity)
    model = HumanGaussianGraph(options, trained, connectivity)
    load_weights(model, path)
    if body is not None:
        model.use_body(body)
    return model.to(device).eval(), metadata


def _open(path: Path) -> AbstractContextManager[Any]:
    return open_tensors(path, MAX_CHECKPOINT_BYTES, "a checkpoint", "copy it again, or use another one")


def _model_options(metadata: Metadata, path: Path) -> ModelOptions:
    """Options of the network, checked before anything of their sizes is allocated."""
    options = options_from_json(ModelOptions, metadata["options"], str(path))
    try:
        check_ranges(options)
    except InputError as error:
        raise InputError(f"{path}: states options out of range ({error}); use another checkpoint") from error
    return options


def _check_shapes(path: Path, options: ModelOptions, body: BodyModel, connectivity: Connectivity) -> None:
    """Compare what the options demand with the shapes that the file holds, before a network of any size is allocated.

    Raises:
        InputError: If they differ.
    """
    with _open(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    shapes = current_parameters(shapes)
    remedy = "use another checkpoint, or copy it again"
    queries, layers = (options.graph.queries, options.graph.features), _count_layers(options)
    if shapes.get("graph.query_embedding") != queries or layers > len(shapes):
        raise InputError(f"{path}: states options of another network than that of its parameters; {remedy}")
    try:
        with torch.device("meta"):  # shapes without memory
            network = HumanGaussianGraph(options, body, connectivity)
    except (ArithmeticError, InputError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: states options of no network ({error}); {remedy}") from error
    demanded = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(demanded.keys() | shapes.keys()):
        needed, found = demanded.get(name), shapes.get(name)
        if needed != found:
            raise InputError(f"{path}: states options that give {name} the shape {needed}, it has {found}; {remedy}")


def _count_layers(options: ModelOptions) -> int:
    """Number of layers, each of which has parameters of its own."""
    unet, graph = options.unet, options.graph
    levels = len(unet.down_channels) + len(unet.up_channels)
    return (
        levels * unet.layers_per_block
        + graph.layers * (graph.intra + graph.inter + bool(graph.patches))
        + options.feedback
    )


def load_weights(model: HumanGaussianGraph, path: Path, prefix: str = "", optional: Sequence[str] = ()) -> list[str]:
    """Load the parameters whose names begin with `prefix` from a checkpoint; others are unchanged.

    If the checkpoint belongs to another body, its parameters per vertex are transferred (`transfer_parameters`).

    Args:
        optional: Prefixes of parameters that are unchanged if the checkpoint has none with that prefix.
    Returns:
        The optional prefixes that the network has and the checkpoint lacks.
    Raises:
        InputError: If the parameters of the checkpoint are not finite or do not fit the network, or its body is needed
            and not found.
    """
    metadata = read_metadata(path)
    with _open(path) as file:
        tensors = current_parameters({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"{path}: the parameter {name} holds NaN or infinity; use an earlier checkpoint of the run"
            )
    if metadata["body"] != model.body.fingerprint:
        tensors = _transferred(tensors, metadata, model.body, path)
    current = model.state_dict()
    wanted = [name for name in current if name.startswith(prefix)]
    missing = [part for part in optional if _has_prefix(wanted, part) and not _has_prefix(tensors, part)]
    kept = {
        name: tensor for name, tensor in current.items() if not name.startswith(prefix) or name.startswith((*missing,))
    }
    try:
        model.load_state_dict(tensors | kept)
    except RuntimeError as error:
        first_misfit = str(error).splitlines()[1].strip().split(", ")[0]
        raise InputError(
            f"{path} does not fit the network: {first_misfit}; use the model options that it was trained with"
        ) from error
    return missing


def _body_of_training(metadata: Metadata, body: BodyModel, path: Path) -> BodyModel:
    """The body that a checkpoint was trained with, to use the checkpoint with `body`.

    Raises:
        InputError: If it is another one and not found.
    """
    if metadata["body"] == body.fingerprint:
        return body
    try:
        trained = find_body(metadata["body"])
    except InputError as error:
        raise InputError(
            f"{path} was trained on the body {metadata['body_name']} ({metadata['body']}), which is needed to transfer "
            f"it to {body.name} ({body.fingerprint}): {error}"
        ) from error
    logger.info("%s: trained on the body %s, transferred to %s", path, metadata["body_name"], body.name)
    return trained


def _transferred(tensors: dict[str, Tensor], metadata: Metadata, body: BodyModel, path: Path) -> dict[str, Tensor]:
    source = _body_of_training(metadata, body, path)
    try:
        return transfer_parameters(tensors, source, body)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its parameters are not those of {source.num_vertices} vertices ({error}); use another checkpoint"
        ) from error


def _has_prefix(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
