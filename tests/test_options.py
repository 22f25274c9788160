"""Options as JSON, ranges of options, and presets."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from core.options import MODELS, PRESETS, DataOptions, ModelOptions, TrainOptions
from core.utils.options_json import options_from_json, options_to_json
from core.utils.ranges import check_ranges
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, bool] = (0.5, True)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    path: Path | None = None
    kind: Literal["a", "b"] = "a"
    rate: float = 1.0
    name: str = "x"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_unchanged_by_json(preset):
    options = replace(PRESETS[preset][1], init=Path("a/b.safetensors"), max_minutes=3.0)
    assert options_from_json(TrainOptions, options_to_json(options), "here") == options


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_consistent(preset):
    description, options = PRESETS[preset]
    assert description and options.model in MODELS.values()
    assert options.data.target_views > len(options.data.input_views)  # some views are novel
    check_ranges(options)


def test_the_second_part_of_the_recipe_starts_from_the_first():
    first, second = (PRESETS[name][1] for name in ("demo-gpu", "demo-gpu-512"))
    assert second.init == first.workspace / "model.safetensors" and second.workspace != first.workspace
    assert (second.model, second.stage) == (first.model, first.stage)
    assert second.data.image_size == 2 * first.data.image_size == 512


def test_missing_options_have_their_defaults():
    assert options_from_json(Outer, '{"inner": {"sizes": [3]}}', "old") == Outer(inner=Inner(sizes=(3,)))
    assert options_from_json(Outer, '{"rate": 2, "path": "p"}', "old") == Outer(rate=2.0, path=Path("p"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"depth": 3}}, "file.st: unknown option Outer.inner.depth"),
        ({"kind": "c"}, "option Outer.kind cannot be 'c'"),
        ({"inner": {"sizes": ["x"]}}, "option Outer.inner.sizes cannot be 'x'"),
        ({"inner": {"pair": [1.0]}}, "option Outer.inner.pair cannot be"),
        ({"inner": 3}, "option Outer.inner cannot be 3"),
        ({"rate": True}, "option Outer.rate cannot be True"),
        ({"name": None}, "option Outer.name cannot be None"),
    ],
)
def test_invalid_values_are_named(values, message):
    with pytest.raises(InputError, match=message):
        options_from_json(Outer, json.dumps(values), "file.st")


def test_damaged_json_is_reported():
    with pytest.raises(InputError, match="not JSON"):
        options_from_json(ModelOptions, "{", "file.st")


def test_the_big_preset_is_the_papers():
    options = PRESETS["big"][1]
    assert (options.data.image_size, options.data.target_views, options.data.input_frames) == (512, 8, 4)
    assert (options.lr, options.weight_decay, options.betas, options.clip) == (4e-4, 0.05, (0.9, 0.95), 1.0)
    assert (options.model.graph.layers, options.model.graph.features, options.model.graph.heads) == (6, 128, 4)
    assert (options.model.unet.input_size, options.model.unet.splat_size) == (256, 128)
    assert options.data == DataOptions() and options.loss.ssim == 0
