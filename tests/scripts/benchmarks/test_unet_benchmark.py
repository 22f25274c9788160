"""scripts/benchmark.py unet without a GPU."""

import json

import pytest

from scripts.benchmarks.unet import unet
from smpl_renderer.errors import InputError


@pytest.mark.slow
def test_unet_prints_a_table_and_writes_timings(tmp_path, capsys):
    out = tmp_path / "timings.json"
    unet(models=("demo-cpu",), frames=2, views=1, repeats=1, device="cpu", out=out)
    assert "forward + backward ms" in capsys.readouterr().out
    timings = json.loads(out.read_text())["unet"]
    assert [t["operations"] for t in timings] == ["plain, frame by frame", "plain"]
    assert all(t["forward_backward_ms"] > t["forward_ms"] > 0 for t in timings)


def test_an_unknown_model_is_named():
    with pytest.raises(InputError, match="unknown model 'huge'"):
        unet(models=("huge",), device="cpu")
