"""Steps of a fit as CUDA graphs: what a capture demands of the energy, without a GPU; equal results, with one."""

import pytest
import torch
from fit_scenes import observe_bodies, ring_cameras, standing_bodies
from torch.utils._python_dispatch import TorchDispatchMode

from smpl_renderer.fitting import FitOptions, fit_bodies
from smpl_renderer.fitting.energy import Energy
from smpl_renderer.fitting.point_model import Pose
from smpl_renderer.fitting.surface import spread_vertices
from smpl_renderer.fitting.targets import prepare_targets
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.fitting.weights import Weights

WAITING = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "_to_copy", "is_nonzero")
"""Operations that copy numbers of Python to the device, or results to Python."""


class _Recorded(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.names.append(str(function))
        return function(*arguments, **(keywords or {}))


def make_energy(body):
    params = standing_bodies([0.0, 1.0])
    seen = observe_bodies(params, body, times=torch.tensor([0.0, 0.1]))
    bodies = Pose.from_params(params)
    vertices = spread_vertices(body, 100)
    energy = Energy(
        prepare_targets(seen), body, vertices, Weights(), bodies, times=seen.times, height=1.7, free_gravity=True
    )
    start = Variables.start(bodies, torch.tensor([[0.0, -1.0, 0.0]]), torch.zeros(1))
    return energy, start.leaves(("root", "pose", "transl", "betas", "log_scale", "up", "floor"))


def test_a_step_neither_waits_for_the_device_nor_copies_to_it(body):
    energy, x = make_energy(body)
    energy.update_common(x)
    with _Recorded() as recorded:
        sum(energy(x).values()).mean().backward()
    assert len(recorded.names) > 500
    assert not [name for name in recorded.names if any(word in name for word in WAITING)]


def test_the_common_pose_is_updated_in_place(body):
    energy, x = make_energy(body)
    energy.update_common(x)
    first, before = energy.common, energy.common.clone()
    with torch.no_grad():
        x.pose.add_(0.3)
    energy.update_common(x)
    assert energy.common is first and not torch.equal(first, before)


@pytest.mark.gpu
@pytest.mark.parametrize("cameras", [1, 3])
def test_replayed_steps_are_the_steps(body, cameras):
    device = torch.device("cuda")
    params = standing_bodies([0.0, 1.0])
    seen = observe_bodies(params, body, ring_cameras(cameras), times=torch.tensor([0.0, 0.1])).to(device)
    fits = [
        fit_bodies(seen, body.to(device), FitOptions(steps=0.2, cuda_graphs=graphs)).to("cpu")
        for graphs in (False, True)
    ]
    body = body.to(torch.device("cpu"))
    plain, replayed = (body(fit.params).vertices for fit in fits)
    # Sums of atomic additions differ in order, and steps of Adam amplify that.
    assert (plain - replayed).norm(dim=-1).mean() < 2e-3
