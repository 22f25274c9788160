"""Trained networks as files: safetensors, with what is needed to build the network again in the metadata.

A checkpoint holds the network's own numbers only. The body model, whose licence may forbid passing it on, is named by
its fingerprint and has to be found where the checkpoint is used.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.io.options_json import options_from_json, options_to_json
from core.model.hgg import HumanGaussianGraph
from core.options import ModelOptions
from smpl_renderer.body_model import BodyModel, find_body
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

FORMAT = "human-gaussian-graph"
VERSION = "2"

Metadata = dict[str, str]
"""`format`, `version`, `options` (ModelOptions, JSON), `body` (fingerprint), `body_name`, `step`, `data` (stamp of the
captures it was trained on) and `training` (TrainOptions, JSON); what is not known is empty."""


def save_checkpoint(
    path: Path,
    model: HumanGaussianGraph,
    *,
    step: int = 0,
    data: str = "",
    training: str = "",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network, whole or not at all.

    Args:
        step: Training steps behind it.
        data: Stamp of the data it was trained on.
        training: The run's options, as JSON.
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


def load_weights(model: HumanGaussianGraph, path: Path, prefix: str = "") -> None:
    """Fill a network, or the part of it whose names begin with `prefix`, with a checkpoint's numbers.

    Raises:
        InputError: If the checkpoint's network has another shape.
    """
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
    try:
        model.load_state_dict(tensors | kept)
    except RuntimeError as error:
        first_misfit = str(error).splitlines()[1].strip()
        raise InputError(f"{path} does not fit the network that was asked for: {first_misfit}") from error
