"""Checkpoints: round trip, no data of the body model in the file, errors for files that do not fit."""

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from core.checkpoint import (
    VERSION,
    Training,
    load_checkpoint,
    load_weights,
    read_metadata,
    read_trainings,
    save_checkpoint,
)
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions, UNetOptions
from core.utils.options_json import options_to_json
from core.utils.ranges import check_ranges
from smpl_renderer.errors import InputError

OPTIONS = ModelOptions(
    unet=UNetOptions(
        input_size=32,
        splat_size=16,
        down_channels=(8, 16),
        down_attention=(False, True),
        up_channels=(16,),
        up_attention=(False,),
        layers_per_block=1,
    ),
    graph=GraphOptions(features=8, queries=1, layers=1, heads=2),
)


@pytest.fixture(scope="module")
def model(body):
    torch.manual_seed(0)
    return HumanGaussianGraph(OPTIONS, body)


def test_a_checkpoint_loads_as_it_was_saved(model, body, tmp_path):
    path = tmp_path / "a" / "model.safetensors"
    save_checkpoint(path, model, step=7, data="synthetic 3", training="{}")
    loaded, metadata = load_checkpoint(path)  # the body is found by its fingerprint
    assert loaded.options == OPTIONS and loaded.body.fingerprint == body.fingerprint and not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert {k: metadata[k] for k in ("step", "data", "training", "body_name")} == {
        "step": "7",
        "data": "synthetic 3",
        "training": "{}",
        "body_name": body.name,
    }


def test_a_checkpoint_records_its_training_runs(model, tmp_path):
    path = tmp_path / "m.safetensors"
    trainings = [Training("frame", 5, 4, 256, 1.5), Training("joint", 7, 3, 512, None)]
    save_checkpoint(path, model, step=7, trainings=trainings)
    assert read_trainings(read_metadata(path)) == trainings
    # Written before the runs were recorded: the options describe the last one.
    save_checkpoint(path, model, step=7, training='{"stage": "joint", "data": {"image_size": 512}}')
    assert read_trainings(read_metadata(path)) == [Training("joint", 7, None, 512, None)]
    save_checkpoint(path, model)
    assert read_trainings(read_metadata(path)) == [Training("", 0, None, None, None)]


def test_times_are_stored_beside_equal_checkpoints(model, tmp_path):
    contents = []
    for minutes in (1.5, 2.5):
        path = tmp_path / str(minutes) / "m.safetensors"
        save_checkpoint(path, model, step=5, trainings=[Training("frame", 5, 4, 256, minutes)])
        assert read_trainings(read_metadata(path))[0].minutes == minutes
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    for text in ("{", "[]", '{"steps": [6], "minutes": [1]}', '{"steps": [5], "minutes": []}'):
        path.with_suffix(".minutes.json").write_text(text)
        assert read_trainings(read_metadata(path)) == [Training("frame", 5, 4, 256, None)]


def test_trainings_of_earlier_versions_are_read():
    """They name the subjects of a step `persons`."""
    values = {"stage": "joint", "steps": 7, "persons": 3, "image_size": 512, "minutes": None}
    assert read_trainings({"trainings": json.dumps([values])}) == [Training("joint", 7, 3, 512, None)]


def test_half_precision_halves_the_file_and_loads_as_float32(model, body, tmp_path):
    for dtype in (torch.float32, torch.float16):
        save_checkpoint(tmp_path / f"{dtype}.safetensors", model, dtype=dtype)
    full, half = ((tmp_path / f"{d}.safetensors").stat().st_size for d in (torch.float32, torch.float16))
    assert half < 0.55 * full
    loaded, _ = load_checkpoint(tmp_path / f"{torch.float16}.safetensors", body)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32
        # float16 has 11 significant bits; below 6e-5 its spacing is 6e-8.
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=2**-11, atol=6e-8)


def test_no_data_of_the_body_model_is_in_the_file(model, body, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", model)
    tensors = load_file(tmp_path / "m.safetensors")
    assert set(tensors) == {name for name, _ in model.named_parameters()}
    sizes = {tensor.numel() for tensor in body.buffers()}
    flat = {name: tensor.flatten() for name, tensor in tensors.items() if tensor.numel() in sizes}
    for buffer in body.buffers():
        copies = [name for name, tensor in flat.items() if torch.equal(tensor, buffer.flatten().to(tensor.dtype))]
        assert not copies


def test_files_that_are_not_checkpoints_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no checkpoint at"):
        read_metadata(path)
    path.write_bytes(b"\x80\x02not safetensors")
    with pytest.raises(InputError, match=r"cannot be read as a checkpoint .* copy it again"):
        read_metadata(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        read_metadata(path)


def test_another_version_is_refused(model, tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | {"version": "99"})
    with pytest.raises(InputError, match=f"version 99, expected {VERSION}"):
        load_checkpoint(path)
    save_file(load_file(path), path, metadata | {"options": metadata["options"].replace("queries", "questions")})
    with pytest.raises(InputError, match=re.escape("unknown option ModelOptions.graph.questions")):
        load_checkpoint(path)


def test_parameters_that_overflow_are_not_written(model, tmp_path):
    broken = copy.deepcopy(model)
    next(broken.parameters()).data.fill_(1e6)  # beyond float16
    with pytest.raises(ValueError, match="not finite"):
        save_checkpoint(tmp_path / "m.safetensors", broken, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_refused(model, body, tmp_path, value):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model)
    tensors = load_file(path)
    tensors["head.offsets"].view(-1)[3] = value
    save_file(tensors, path, read_metadata(path))
    with pytest.raises(InputError, match=r"model\.safetensors: the parameter head\.offsets holds NaN or infinity"):
        load_checkpoint(path, body)


def test_from_a_checkpoint_of_another_graph_only_the_unet_loads(model, body, tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model)
    other = HumanGaussianGraph(replace(OPTIONS, graph=replace(OPTIONS.graph, queries=2)), body)
    with pytest.raises(InputError, match="does not fit the network"):
        load_weights(other, path)
    before = copy.deepcopy(other.graph.state_dict())
    load_weights(other, path, prefix="unet.")
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(other.unet.state_dict()[name], tensor)
    for name, tensor in before.items():
        assert torch.equal(other.graph.state_dict()[name], tensor)


def test_optional_parts_may_be_missing(model, body, tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model)
    other = HumanGaussianGraph(replace(OPTIONS, feedback=1), body)
    with pytest.raises(InputError, match="does not fit the network"):
        load_weights(other, path)
    before = copy.deepcopy(other.feedback.state_dict())
    assert load_weights(other, path, optional=("color_sampling.", "feedback.")) == ["feedback."]
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    for name, tensor in before.items():
        assert torch.equal(other.feedback.state_dict()[name], tensor)


def test_parts_outside_the_prefix_are_not_reported_as_missing(model, body, tmp_path):
    """Only the U-Net of a complete checkpoint is loaded."""
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model)
    assert load_weights(HumanGaussianGraph(OPTIONS, body), path, "unet.", optional=("color_sampling.",)) == []


def with_metadata(path, model, **changes):
    """A checkpoint whose metadata are changed; None leaves an entry out."""
    save_checkpoint(path, model)
    metadata = read_metadata(path) | changes
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"down_channels": [8, 16384]}),
        ("unet", {"layers_per_block": 200}),
        ("unet", {"down_channels": [8, 16, 16], "down_attention": [False, False, True]}),
        ("unet", {"mid_attention": False}),
        ("graph", {"features": 4096}),
        ("graph", {"features": 12, "heads": 5}),
        ("graph", {"queries": 2048}),
        ("graph", {"ffn_factor": 200}),
        ("graph", {"layers": 256}),
        ("graph", {"head": "residual"}),
        ("", {"feedback": 200}),
        ("", {"color_sampling": False}),
    ],
)  # fmt: skip
def test_options_of_another_network_are_refused_before_one_is_built(model, body, tmp_path, part, values, monkeypatch):
    """Each is in its range; together they could demand terabytes."""
    options = json.loads(options_to_json(OPTIONS))
    (options[part] if part else options).update(values)
    path = with_metadata(tmp_path / "m.safetensors", model, options=json.dumps(options))
    build = HumanGaussianGraph

    def build_without_memory(*arguments):
        assert torch.empty(0).is_meta, "the network is built before its shapes are compared"
        return build(*arguments)

    monkeypatch.setattr("core.checkpoint.HumanGaussianGraph", build_without_memory)
    with pytest.raises(InputError, match=r"m\.safetensors: states options"):
        load_checkpoint(path, body)


@pytest.mark.parametrize(
    "unet",
    [
        {"input_size": 16384, "splat_size": 16384},
        {"down_channels": (16384,), "input_size": 128},
        {"down_attention": (True,) * 6},
        {"up_attention": (True,) * 5, "input_size": 512, "splat_size": 256},
        {"up_channels": ()},
        {"down_channels": (8,), "down_attention": (False,)},
    ],
)
def test_options_that_demand_too_much_together_are_refused(unet):
    with pytest.raises(InputError, match=r"--unet\.(up-channels must have 1|input-size and .* (attention on )?a map)"):
        check_ranges(replace(ModelOptions(), unet=replace(UNetOptions(), **unet)))
    with pytest.raises(InputError, match=r"--graph\.queries, .* at most 32768"):
        check_ranges(replace(ModelOptions(), graph=GraphOptions(queries=4096)))


@pytest.mark.parametrize(
    "changes",
    [
        {"body": None},
        {"options": None},
        {"options": "[" * 100_000},
        {"options": '{"graph": {"dropout": 1' + "0" * 400 + "}}"},
        {"training": "[]"},
        {"training": '{"data": {"image_size": "large"}}'},
        {"training": '{"data": {"image_size": 1' + "0" * 4400 + "}}"},
        {"training": '{"stage": 1}'},
        {"trainings": "[1]"},
        {"trainings": '[{"stage": "joint", "steps": -1, "subjects": 1, "image_size": 1, "minutes": 1}]'},
        {"trainings": '[{"stage": "joint", "steps": 1, "subjects": 1, "image_size": 1, "minutes": NaN}]'},
        {"step": "x"},
        {"step": "1" * 5000},
    ],
)
def test_metadata_of_other_kinds_are_refused(model, body, tmp_path, changes):
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match=r"m\.safetensors: "):
        load_checkpoint(with_metadata(path, model, **changes), body)


@pytest.mark.parametrize("part", [{"layers": 10**6}, {"features": 10**9}, {"queries": 10**7}, {"layers": -1}])
def test_options_out_of_range_are_refused_before_a_network_is_built(model, body, tmp_path, part, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model)
    metadata = read_metadata(path)
    options = json.loads(metadata["options"])
    options["graph"] |= part
    save_file(load_file(path), path, metadata | {"options": json.dumps(options)})
    monkeypatch.setattr("core.checkpoint.HumanGaussianGraph", None)
    with pytest.raises(InputError, match=r"m\.safetensors: states options out of range .*graph"):
        load_checkpoint(path, body)
