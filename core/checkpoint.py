"""Trained networks as files: safetensors, with what is needed to build the network again in the metadata.

A checkpoint holds the network's own numbers only. The body model, whose licence may forbid passing it on, is named by
its fingerprint and has to be found where the checkpoint is used.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.model.hgg import HumanGaussianGraph
from core.options import ModelOptions
from core.utils.aliases import current_parameters
from core.utils.options_json import options_from_json, options_to_json
from smpl_renderer.body_files import find_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

FORMAT = "human-gaussian-graph"
VERSION = "2"

Metadata = dict[str, str]
"""`format`, `version`, `options` (ModelOptions, JSON), `body` (fingerprint), `body_name`, `step`, `data` (stamp of the
captures it was trained on), `training` (TrainOptions, JSON) and `trainings` (`read_trainings`); what is not known is
empty or missing."""


@dataclass(frozen=True)
class Training:
    """A run that a network's numbers have gone through."""

    stage: str
    steps: int
    persons: int | None
    """Of each step, in all processes together; None if that is not known."""
    image_size: int | None
    """Pixels of the supervising pictures."""
    minutes: float | None
    """Of wall time, evaluations included."""


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
    """Write a network, whole or not at all.

    Args:
        step: Training steps behind it.
        data: Stamp of the data it was trained on.
        training: The run's options, as JSON.
        trainings: The run and, before it, those that it began from (`--init`), the oldest first.
        dtype: Of the numbers in the file; `torch.float16` halves it.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite as {dtype}")
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
        "trainings": json.dumps([asdict(own) for own in trainings]) if trainings else "",
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_metadata(path: Path) -> Metadata:
    """What a checkpoint says about itself.

    Raises:
        InputError: If the file is missing, no checkpoint of this project, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: give the path of a .safetensors file that training wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}); copy it again") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this project: its metadata does not say so")
    if metadata.get("version") != VERSION:
        found = metadata.get("version")
        raise InputError(f"{path} has checkpoint version {found}, expected {VERSION}: use the code that wrote it")
    return metadata


def read_trainings(metadata: Metadata) -> list[Training]:
    """The runs behind a checkpoint, the oldest first; of one that does not name them, what is known of its last."""
    if metadata.get("trainings"):
        return [Training(**own) for own in json.loads(metadata["trainings"])]
    options = json.loads(metadata.get("training") or "{}")
    size = options.get("data", {}).get("image_size")
    return [Training(options.get("stage", ""), int(metadata.get("step") or 0), None, size, None)]


def load_checkpoint(
    path: Path, body: BodyModel | None = None, device: torch.device | str = "cpu"
) -> tuple[HumanGaussianGraph, Metadata]:
    """The network of a checkpoint in evaluation mode, float32, and the checkpoint's metadata.

    Args:
        body: The body it was trained on; by default it is searched by its fingerprint.
    Raises:
        InputError: If the file is not usable or `body` is another one.
    """
    metadata = read_metadata(path)
    options = options_from_json(ModelOptions, metadata["options"], str(path))
    if body is None:
        body = find_body(metadata["body"])
    if body.fingerprint != metadata["body"]:
        trained = f"{metadata['body_name']} ({metadata['body']})"
        raise InputError(f"{path} was trained on the body {trained}, not on {body.name} ({body.fingerprint})")
    model = HumanGaussianGraph(options, body)
    load_weights(model, path)
    return model.to(device).eval(), metadata


def load_weights(model: HumanGaussianGraph, path: Path, prefix: str = "", optional: Sequence[str] = ()) -> list[str]:
    """Fill a network, or the part of it whose names begin with `prefix`, with a checkpoint's numbers.

    Args:
        optional: Beginnings of names that stay as they are if the checkpoint has none of them.
    Returns:
        Those of `optional` that were asked for and that it lacks.
    Raises:
        InputError: If the checkpoint's network has another shape.
    """
    with safe_open(path, "pt") as file:
        tensors = current_parameters({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    own = model.state_dict()
    asked = [name for name in own if name.startswith(prefix)]
    missing = [part for part in optional if _has(asked, part) and not _has(tensors, part)]
    kept = {name: tensor for name, tensor in own.items() if not name.startswith(prefix) or name.startswith((*missing,))}
    try:
        model.load_state_dict(tensors | kept)
    except RuntimeError as error:
        first_misfit = str(error).splitlines()[1].strip().split(", ")[0]
        raise InputError(f"{path} does not fit the network that was asked for: {first_misfit}") from error
    return missing


def _has(names: Iterable[str], part: str) -> bool:
    return any(name.startswith(part) for name in names)
