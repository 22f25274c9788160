"""Earlier names of parameters, options, flags and log columns give the present ones."""

import dataclasses
import json
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from model_rig import TEST_MODEL
from safetensors import safe_open

from core.checkpoint import load_checkpoint
from core.model.hgg import HumanGaussianGraph
from core.options import ModelOptions, TrainOptions
from core.utils.aliases import (
    OPTIONS,
    current_column,
    current_flags,
    current_options,
    current_parameter,
    current_parameters,
)
from core.utils.options_json import options_from_json, options_to_json
from smpl_renderer.files import REPOSITORY

SHIPPED = REPOSITORY / "pretrained" / "hgg_demo.safetensors"


@pytest.fixture(scope="module")
def shipped() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the shipped checkpoint, as they are in the file."""
    with safe_open(SHIPPED, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize(
    ("earlier", "present"),
    [
        ("second_look.weigh_own.bias", "color_sampling.own_logit.bias"),
        ("second_look.weigh.3.weight", "color_sampling.attention_mlp.3.weight"),
        ("second_look.correct.1.weight", "color_sampling.correction_head.1.weight"),
        ("second_look.embed_evidence.weight", "color_sampling.embed_evidence.weight"),
        ("feedback.corrections.0.think.1.bias", "feedback.corrections.0.mlp.1.bias"),
        ("feedback.corrections.12.decide.weight", "feedback.corrections.12.to_update.weight"),
        ("feedback.corrections.1.remember.weight", "feedback.corrections.1.to_context.weight"),
    ],
)
def test_earlier_parameter_names_give_present_ones(earlier, present):
    assert current_parameter(earlier) == present


@pytest.mark.parametrize("head", ["vertex", "residual"])
def test_present_parameter_names_are_kept(body, connectivity, head):
    options = dataclasses.replace(TEST_MODEL, feedback=2, graph=dataclasses.replace(TEST_MODEL.graph, head=head))
    names = HumanGaussianGraph(options, body, connectivity).state_dict()
    assert {name: current_parameter(name) for name in names} == {name: name for name in names}


def test_the_shipped_checkpoint_loads_with_every_tensor_under_its_present_name(shipped):
    tensors, _ = shipped
    model, _ = load_checkpoint(SHIPPED)
    loaded = model.state_dict()
    assert len(current_parameters(tensors)) == len(tensors)  # no two names become one
    assert current_parameters(tensors).keys() == loaded.keys()
    for name, tensor in current_parameters(tensors).items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_options_of_the_shipped_checkpoint_are_parsed(shipped):
    _, metadata = shipped
    model = options_from_json(ModelOptions, metadata["options"], "shipped")
    training = options_from_json(TrainOptions, metadata["training"], "shipped")
    assert model == training.model
    assert (model.color_sampling, model.feedback) == (True, 3)
    assert (training.loss.surface_distance, training.loss.lpips_crops, training.cuda_graphs) == (0.04, True, True)
    assert training.nearest == "auto"  # younger than the checkpoint


def test_earlier_option_names_give_present_ones():
    text = {"second_look": False, "feedback": 1}
    assert options_from_json(ModelOptions, json.dumps(text), "") == ModelOptions(color_sampling=False, feedback=1)
    text = {"record": False, "loss": {"tie": 0.5, "lpips_pieces": True}}
    options = options_from_json(TrainOptions, json.dumps(text), "")
    assert (options.cuda_graphs, options.loss.surface_distance, options.loss.lpips_crops) == (False, 0.5, True)


def test_present_option_names_are_kept():
    options = TrainOptions(cuda_graphs=False, workspace=Path("elsewhere"))
    assert options_from_json(TrainOptions, options_to_json(options), "") == options
    names = list(_field_names(TrainOptions))
    assert current_options(dict.fromkeys(names), names) == dict.fromkeys(names)
    assert not set(OPTIONS.values()) & set(names)  # an earlier name must not mean another option now


def test_earlier_flags_give_present_ones_and_a_message():
    flags, messages = current_flags(
        ["demo", "--model.no-second-look", "--loss.tie=0.5", "--record", "--data.root", "a"]
    )
    assert flags == [
        "demo",
        "--model.no-color-sampling",
        "--loss.surface-distance=0.5",
        "--cuda-graphs",
        "--data.root",
        "a",
    ]
    assert len(messages) == 3 and all("is now" in message for message in messages)
    assert current_flags(["--loss.lpips_pieces"])[0] == ["--loss.lpips-crops"]  # tyro accepts either spelling


def test_present_flags_are_kept():
    flags = ["tiny", "--lr", "1e-3", "--no-cuda-graphs", "--model.color-sampling", "--loss.surface-distance=0.1"]
    assert current_flags(flags) == (flags, [])


def test_earlier_log_columns_give_present_ones():
    assert [current_column(name) for name in ("tie", "surface_distance", "rgb")] == ["surface_distance"] * 2 + ["rgb"]


def _field_names(options: type) -> set[str]:
    """Names of the fields of an options class and of the classes within."""
    hints = get_type_hints(options)
    nested = (_field_names(hint) for hint in hints.values() if dataclasses.is_dataclass(hint))
    return set(hints).union(*nested)
