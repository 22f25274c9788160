"""Parts of a training run: schedule, batch order, input subsets, optimizer, run states, logs."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core.options import DataOptions, TrainOptions
from core.training import run_state
from core.training.loading import EndlessBatches, choose_subjects, mixed_seed, on_device
from core.training.logs import RunLog, _append, read_rows
from core.training.optimizer import finite_step, make_optimizer, one_cycle, run_progress
from core.training.run_state import (
    RunState,
    check_agreement,
    find_run_states,
    load_run_state,
    resolve_resume,
    resume_signature,
    save_run_state,
)
from core.training.step import sample_input_subset, vary_exposure
from core.types.cameras import Cameras
from core.types.frames import Frames, Sample, collate
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams


def take(batches: EndlessBatches, count: int) -> list:
    return [batch for batch, _ in zip(batches, range(count))]


def test_the_learning_rate_rises_peaks_and_falls():
    factors = [one_cycle(i / 200, warmup=0.1) for i in range(201)]
    assert max(factors) == one_cycle(0.1, warmup=0.1) == 1
    rise, fall = factors[:21], factors[20:]
    assert rise == sorted(rise) and fall == sorted(fall, reverse=True) and len(set(factors)) > 150
    assert 0 < factors[-1] < 0.01 and 0 < factors[0] < 0.1
    assert one_cycle(0.55, 0.1) == pytest.approx(0.5, abs=0.01)  # halfway down
    assert one_cycle(0.0, warmup=0.0) == 1


def test_progress_is_by_steps_or_by_time_whichever_is_further():
    assert run_progress(25, 100, seconds=1e9, max_minutes=None) == 0.25
    assert run_progress(25, 100, seconds=30, max_minutes=1.0) == 0.5
    assert run_progress(75, 100, seconds=30, max_minutes=1.0) == 0.75
    assert run_progress(5, 100, seconds=61, max_minutes=1.0) == 1


def test_every_epoch_is_another_permutation_of_all_subjects():
    keys = [key for batch in take(EndlessBatches(7, 2, seed=3), 14) for key in batch]  # four epochs of seven
    orders = [[index for epoch, index in keys if epoch == e] for e in range(4)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert keys != [key for batch in take(EndlessBatches(7, 2, seed=4), 14) for key in batch]


def test_processes_partition_the_order_and_a_later_start_continues_it():
    whole = [key for batch in take(EndlessBatches(5, 6, seed=0), 4) for key in batch]
    shares = [[k for b in take(EndlessBatches(5, 2, 0, rank, processes=3), 4) for k in b] for rank in range(3)]
    assert [shares[i % 3][i // 3] for i in range(24)] == whole
    assert take(EndlessBatches(5, 2, 0, 1, 3, start=2), 2) == take(EndlessBatches(5, 2, 0, 1, 3), 4)[2:]


def test_mixed_seeds_differ_and_are_valid_for_a_generator():
    seeds = {mixed_seed(a, b, c) for a in range(4) for b in range(4) for c in range(50)}
    assert len(seeds) == 800 and all(0 <= seed < 2**63 for seed in seeds)


def test_input_subsets_keep_the_first_and_respect_their_bounds():
    options = DataOptions(min_input_views=2, min_input_frames=1)
    drawn = [sample_input_subset(3, 4, options, torch.Generator().manual_seed(i)) for i in range(200)]
    assert {tuple(subset.frames) for subset in drawn} == {(0,), (0, 1), (0, 2), (0, 1, 2)}
    assert {len(subset.views) for subset in drawn} == {2, 3, 4}
    assert all(subset.views == sorted(set(subset.views)) and subset.views[0] == 0 for subset in drawn)
    assert {view for subset in drawn for view in subset.views} == {0, 1, 2, 3}
    # A minimum above the number of frames keeps all of them.
    everything = sample_input_subset(3, 1, DataOptions(min_input_frames=9), torch.Generator())
    assert (everything.frames, everything.views) == ([0, 1, 2], [0])


def test_a_share_of_the_steps_has_one_image():
    options = DataOptions(min_input_views=3, min_input_frames=2, single_image=0.3)
    drawn = [sample_input_subset(3, 4, options, torch.Generator().manual_seed(i)) for i in range(400)]
    single = [subset for subset in drawn if len(subset.views) == 1]
    assert 0.2 < len(single) / len(drawn) < 0.4
    assert all((subset.frames, subset.views) == ([0], [0]) for subset in single)
    assert all(len(subset.frames) >= 2 for subset in drawn if subset not in single)


def test_gains_change_the_exposure_of_the_person_around_their_mean():
    generator = torch.Generator().manual_seed(0)
    alphas = (torch.rand(2, 3, 4, 1, 8, 8, generator=generator) > 0.4).float()
    colors = 0.3 + 0.2 * torch.rand(2, 3, 4, 3, 8, 8, generator=generator)
    cameras = Cameras(torch.eye(4).expand(2, 3, 4, 4, 4), torch.eye(3).expand(2, 3, 4, 3, 3), 8, 8)
    fits = BodyParams.zeros(6).map(lambda x: x.unflatten(0, (2, 3)))
    frames = Frames(colors * alphas + 1 - alphas, alphas, cameras, fits)
    varied = vary_exposure(frames, 0.2, ["a/0005", "b/0005"], 7)
    person = alphas.expand_as(colors) > 0
    assert varied.images[~person].equal(frames.images[~person])
    logs = (varied.images / frames.images).log().where(person, 0).sum((-2, -1)) / alphas.sum((-2, -1))
    torch.testing.assert_close(logs.mean((1, 2)), torch.zeros(2, 3), rtol=0, atol=1e-5)
    assert 0.1 < logs.std() < 0.35
    # Independent of the other subjects of a batch, equal for equal seeds, and none for a single image.
    alone = vary_exposure(frames[1:], 0.2, ["b/0005"], 7)
    torch.testing.assert_close(alone.images, varied.images[1:], rtol=0, atol=1e-6)
    assert not vary_exposure(frames, 0.2, ["a/0005", "b/0005"], 8).images.equal(varied.images)
    single = frames.select_frames([0]).select_views([0])
    torch.testing.assert_close(vary_exposure(single, 0.2, ["a", "b"], 7).images, single.images)


def test_packing_is_lossless():
    def frames(seed: int) -> Frames:
        values = torch.arange(256, dtype=torch.uint8).roll(seed).view(1, 1, 1, 16, 16)
        cameras = Cameras(torch.eye(4)[None, None], torch.eye(3)[None, None], 16, 16)
        return Frames(values.expand(1, 1, 3, 16, 16), values, cameras, BodyParams.zeros(1))

    samples = [Sample(frames(i), frames(i + 9), [str(i)]) for i in range(2)]
    unpacked = collate(samples).unpack()
    for part in ("inputs", "targets"):
        for name in ("images", "alphas"):
            packed = torch.stack([getattr(getattr(sample, part), name) for sample in samples])
            values = getattr(getattr(unpacked, part), name)
            assert packed.dtype == torch.uint8 and values.dtype == torch.float32 and values.max() == 1
            assert torch.equal((values * 255).round().to(torch.uint8), packed)


def test_held_out_subjects(tmp_path, caplog):
    for name in ("train/1", "train/2", "train/3", "other/4", "other/5", "mixed/3"):
        (tmp_path / name / "images_lr").mkdir(parents=True)

    def chosen(validation: int, root: str | None = None) -> tuple[list[str], list[str]]:
        data = DataOptions(root=tmp_path / "train")
        folder = root and tmp_path / root
        parts = choose_subjects(TrainOptions(data=data, validation=validation, validation_root=folder))
        return tuple([entry.subject for entry in part] for part in parts)

    assert chosen(1) == (["1", "2"], ["3"])  # the last
    assert chosen(1, "other") == (["1", "2", "3"], ["4"])  # the first of the other folder
    assert chosen(9, "other")[1] == ["4", "5"] and chosen(-1, "other")[1] == []
    assert chosen(0, "missing") == (["1", "2", "3"], [])  # the folder is not read
    assert not caplog.messages
    assert chosen(1, "mixed")[1] == ["3"] and "names of training subjects (3)" in caplog.text
    with pytest.raises(InputError, match="missing: no such folder"):
        chosen(1, "missing")


def test_processes_with_different_files_are_refused():
    check_agreement([(3, ["a", "b"])] * 2)
    with pytest.raises(InputError, match="different run states: all machines must share"):
        check_agreement([(3, ["a"]), (0, ["a"])])
    with pytest.raises(InputError, match="different captures"):
        check_agreement([(3, ["a"]), (3, ["b"])])


def test_options_that_change_the_resume_signature():
    options = TrainOptions(batch_size=4)
    same = replace(
        options, batch_size=1, accumulate=2, cuda_graphs=False, checkpoint_unet=True, save_every=7, log_every=1
    )
    assert resume_signature(same, 2) == resume_signature(options, 1)
    for other in (replace(options, lr=1.0), replace(options, weight_decay=1.0), replace(options, batch_size=2)):
        assert resume_signature(other, 1) != resume_signature(options, 1)


def frames_of(value: int) -> Frames:
    cameras = Cameras(torch.eye(4)[None, None], torch.eye(3)[None, None], 4, 4)
    images = torch.full((1, 1, 3, 4, 4), value, dtype=torch.uint8)
    return Frames(images, images[:, :, :1], cameras, BodyParams.zeros(1))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batches_reach_the_device_in_order_and_one_ahead(device):
    taken = []

    def batches():
        for i in range(6):
            taken.append(i)
            batch = Sample(frames_of(i), frames_of(100 + i), [str(i)])
            yield batch.pin_memory() if device == "cuda" else batch

    for i, batch in enumerate(on_device(batches(), torch.device(device))):
        assert batch.names == [str(i)] and batch.inputs.images.device.type == device
        assert (batch.inputs.images == i).all() and (batch.targets.alphas == 100 + i).all()
        assert taken[-1] == (min(i + 1, 5) if device == "cuda" else i)
    assert i == 5


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear, self.norm = nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.LayerNorm(2)
        self.queries = nn.Parameter(torch.ones(3, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_weights_of_convolutions_and_linear_layers_decay():
    module = Small()
    decaying, others = make_optimizer(module, TrainOptions(weight_decay=0.1)).param_groups
    assert {id(p) for p in decaying["params"]} == {id(module.conv.weight), id(module.linear.weight)}
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0
    rest = {module.conv.bias, module.linear.bias, module.norm.weight, module.norm.bias, module.queries}
    assert set(others["params"]) == rest


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_gradient_changes_nothing(bad):
    module = Small()
    optimizer = make_optimizer(module, TrainOptions())

    def step(value: float) -> float:
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        module.queries.grad[0, 0] = value
        return finite_step(optimizer, max_norm=1.0).item()

    step(0.1)
    before = [p.clone() for p in module.parameters()]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in optimizer.state]
    assert not math.isfinite(step(bad))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before))
    assert all(torch.equal(optimizer.state[p]["exp_avg"], m) for p, m in zip(optimizer.state, moments))
    assert math.isfinite(step(0.1))
    trained = [not torch.equal(p, q) for p, q in zip(module.parameters(), before) if p.requires_grad]
    assert all(trained) and all(p.isfinite().all() for p in module.parameters())


def test_gradients_are_clipped():
    module = nn.Linear(1, 1, bias=False)
    optimizer = make_optimizer(module, TrainOptions())
    module.weight.grad = torch.tensor([[100.0]])
    assert finite_step(optimizer, max_norm=2.0).item() == 100
    assert optimizer.state[module.weight]["exp_avg"].item() == pytest.approx(0.1 * 2, rel=1e-4)  # times 1 - beta1


def make_state(step: int) -> RunState:
    rng = [run_state.rng_state(torch.device("cpu"))]
    return RunState(step, 1.5, "{}", {"w": torch.ones(2)}, {"state": {}, "param_groups": []}, rng, {"a": 2.0}, 0)


def test_run_states_are_read_back_and_the_oldest_are_removed(tmp_path):
    for step in (5, 10, 200):
        save_run_state(tmp_path, make_state(step), keep=2)
    assert [path.name for path in find_run_states(tmp_path)] == ["state_00000010.pt", "state_00000200.pt"]
    state = load_run_state(resolve_resume("auto", tmp_path))
    save_run_state(tmp_path, make_state(20), keep=2)  # the run was resumed from step 10
    assert [path.name for path in find_run_states(tmp_path)] == ["state_00000010.pt", "state_00000020.pt"]
    assert (state.step, state.seconds, state.first_scores, state.earlier) == (200, 1.5, {"a": 2.0}, [])
    assert torch.equal(state.model["w"], torch.ones(2))


def test_random_generators_are_restored():
    state = run_state.rng_state(torch.device("cpu"))

    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002 - the global one is restored

    first = draw()
    assert draw() != first
    run_state.restore_rng(state, torch.device("cpu"))
    assert draw() == first


@pytest.mark.parametrize("where", ["while writing", "before the file is in place"])
def test_a_run_killed_while_saving_keeps_its_run_state(where, tmp_path, monkeypatch):
    save_run_state(tmp_path, make_state(5), keep=1)

    class Killed(BaseException):
        pass

    def write_half(content, path):
        path.write_bytes(b"half")
        raise Killed

    def fail(*args):
        raise Killed

    with monkeypatch.context() as patch:
        if where == "while writing":
            patch.setattr(torch, "save", write_half)
        else:
            patch.setattr(Path, "replace", fail)
        with pytest.raises(Killed):
            save_run_state(tmp_path, make_state(10), keep=1)
    (tmp_path / ".state_00000010.1234abcd.pt").write_bytes(b"half")  # as after a kill without clean-up
    assert load_run_state(resolve_resume("auto", tmp_path)).step == 5
    save_run_state(tmp_path, make_state(15), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["state_00000015.pt"]


def test_the_run_state_that_resume_selects(tmp_path):
    assert resolve_resume("none", tmp_path) is None
    assert resolve_resume("auto", tmp_path / "nowhere") is None
    with pytest.raises(InputError, match="no run state at"):
        resolve_resume(str(tmp_path / "state_00000001.pt"), tmp_path)
    broken = tmp_path / "state_00000003.pt"
    broken.touch()
    with pytest.raises(InputError, match=r"holds a run already .*--resume auto"):
        resolve_resume("none", tmp_path)
    broken.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"state_00000003\.pt is not a readable run state"):
        load_run_state(resolve_resume("auto", tmp_path))


@pytest.mark.parametrize("resumed_step", [0, 2])
def test_a_log_of_an_earlier_version_is_read_and_continued_with_present_column_names(tmp_path, resumed_step):
    """`surface_distance` was `tie` once."""
    (tmp_path / "log.csv").write_text("step,loss,tie\n1,0.5,0.25\n2,0.75,0.125\n3,9.0,9.0\n")
    assert read_rows(tmp_path / "log.csv")[0] == {"step": 1, "loss": 0.5, "surface_distance": 0.25}
    log = RunLog(tmp_path, resumed_step)
    log.steps([{"step": 3, "loss": 1.0, "surface_distance": 0.5}])
    log.close()
    earlier = [(1, 0.5, 0.25), (2, 0.75, 0.125)] if resumed_step else []
    rows = [(row["step"], row["loss"], row["surface_distance"]) for row in read_rows(tmp_path / "log.csv")]
    assert rows == [*earlier, (3, 1.0, 0.5)]
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "step,loss,surface_distance"


def test_rows_are_appended_to_a_log_of_an_earlier_version(tmp_path):
    (tmp_path / "log.csv").write_text("step,tie\n1,0.25\n")
    _append(tmp_path / "log.csv", [{"step": 2, "surface_distance": 0.5, "contrast": 1.0}])
    first, second = read_rows(tmp_path / "log.csv")
    assert (first["surface_distance"], second["surface_distance"], second["contrast"]) == (0.25, 0.5, 1.0)
    assert math.isnan(first["contrast"])


def test_logs_drop_the_rows_that_a_resumed_run_repeats(tmp_path):
    log = RunLog(tmp_path, resumed_step=0)
    log.steps([{"step": i, "loss": 1 / i, "lpips": math.nan} for i in range(1, 6)])
    log.scores(4, {"novel_view": 20.5})
    log.close()
    log = RunLog(tmp_path, resumed_step=3)
    log.steps([{"step": 4, "loss": 9.0, "lpips": 0.5}])
    log.close()
    rows = read_rows(tmp_path / "log.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 9.0)]
    assert not (tmp_path / "scores.csv").exists()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("5,0.1")  # killed while writing
    assert [row["step"] for row in read_rows(tmp_path / "log.csv")] == [1, 2, 3, 4]
    RunLog(tmp_path, resumed_step=0).close()
    assert not (tmp_path / "log.csv").exists()
