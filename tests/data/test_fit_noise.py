"""Noise on fits: of the size asked for, on the inputs' bodies and nothing else, and the same for the same key."""

from dataclasses import replace

import pytest
import torch
from tiny_capture import TinyCapture

from core.data.dataset import HumanDataset
from core.data.fit_noise import BETAS_SHARE, DEPTH_SHARE, ORIENT_SHARE, TRANSL_SHARE, biased_fits, noisy_fits
from core.data.human_list import find_subjects
from core.data.subject_frame import posed_pelvis
from core.options import DataOptions
from core.types.frames import Frames
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

OPTIONS = DataOptions(image_size=16, input_frames=3, target_frames=3, novel_frames=1, target_views=5, verify=False)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory, body):
    root = tmp_path_factory.mktemp("captures")
    TinyCapture(image_size=(77, 64), frames=(5, 10, 15, 20, 25), num_cameras=6).write(root / "209001", body)
    return find_subjects(root)


def tensors(frames: Frames, body: bool) -> list[torch.Tensor]:
    collected = []
    if body:
        frames.body.map(collected.append)
    else:
        collected += [frames.images, frames.alphas, frames.cameras.viewmats, frames.cameras.Ks]
    return collected


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def turned(params: BodyParams, other: BodyParams, name: str) -> torch.Tensor:
    """Rotation vectors [F, joints, 3] between the rotations of two fits."""
    a, b = (axis_angle_to_matrix(getattr(x, name).unflatten(-1, (-1, 3))) for x in (params, other))
    return matrix_to_axis_angle(b @ a.mT)


def test_only_the_input_bodies_are_off(subjects, body):
    plain, noisy = (HumanDataset(replace(OPTIONS, fit_noise=x), subjects, seed=3, body=body) for x in (0.0, 0.05))
    a, b = plain.sample(2, 0), noisy.sample(2, 0)
    assert a.names == b.names and same(tensors(a.inputs, False), tensors(b.inputs, False))
    assert same(
        tensors(a.targets, True) + tensors(a.targets, False), tensors(b.targets, True) + tensors(b.targets, False)
    )
    for name in ("betas", "global_orient", "body_pose", "transl"):
        assert (getattr(a.inputs.body, name) != getattr(b.inputs.body, name)).all()
    assert torch.equal(a.inputs.body.scale, b.inputs.body.scale) and b.inputs.body.transl.dtype == torch.float32


def test_it_follows_from_seed_epoch_and_index(subjects, body):
    dataset, again, other = (
        HumanDataset(replace(OPTIONS, fit_noise=0.05), subjects * 2, seed=seed, body=body) for seed in (3, 3, 4)
    )
    again.sample(0, 1)
    noise = tensors(dataset.sample(2, 0).inputs, True)
    assert same(noise, tensors(again.sample(2, 0).inputs, True))
    for sample in (other.sample(2, 0), dataset.sample(3, 0), dataset.sample(2, 1)):
        assert (noise[0] != tensors(sample.inputs, True)[0]).all()


def test_validation_sees_the_fits_as_they_are(subjects, body):
    plain, noisy = (HumanDataset(replace(OPTIONS, fit_noise=x), subjects, "validation", body=body) for x in (0.0, 0.05))
    assert same(tensors(plain.sample(0, 0).inputs, True), tensors(noisy.sample(0, 0).inputs, True))


def test_size_of_the_noise(body):
    generator = torch.Generator().manual_seed(0)
    count, deviation = 400, 0.02
    pose = 0.8 * torch.randn(69, generator=generator)
    params = replace(BodyParams.zeros(count), body_pose=pose.expand(count, -1), scale=torch.full((count,), 1.1))
    params.global_orient[:] = torch.tensor([0.0, 2.5, 0.3])  # large: adding to the vector would not turn by as much
    noisy = noisy_fits(params, deviation, body, generator)

    # 400 and more draws: within 8 % of the deviation.
    assert turned(params, noisy, "body_pose").std().item() == pytest.approx(deviation, rel=0.08)
    assert turned(params, noisy, "global_orient").std().item() == pytest.approx(ORIENT_SHARE * deviation, rel=0.08)
    pelvis = posed_pelvis(noisy, body) - posed_pelvis(params, body)
    assert pelvis.std().item() == pytest.approx(TRANSL_SHARE * deviation, rel=0.08)
    assert (noisy.betas == noisy.betas[0]).all()
    assert 0.3 < noisy.betas[0].std().item() / (BETAS_SHARE * deviation) < 2  # of ten


def test_bias_is_shared_by_the_frames_of_a_sample_and_by_nothing_else(subjects, body):
    plain, biased = (HumanDataset(replace(OPTIONS, fit_bias=x), subjects, seed=3, body=body) for x in (0.0, 0.05))
    changed = 0
    for epoch in range(12):
        a, b = plain.sample(epoch, 0), biased.sample(epoch, 0)
        assert same(tensors(a.inputs, False), tensors(b.inputs, False))
        assert same(tensors(a.targets, True), tensors(b.targets, True))
        turns = turned(a.inputs.body, b.inputs.body, "body_pose")
        torch.testing.assert_close(turns, turns[:1].expand_as(turns), rtol=0, atol=1e-5)
        changed += bool(turns.abs().max() > 1e-5)
    assert 2 <= changed <= 10  # half of the samples, within chance
    validation = HumanDataset(replace(OPTIONS, fit_bias=0.05), subjects, "validation", body=body)
    plain = HumanDataset(OPTIONS, subjects, "validation", body=body)
    assert same(tensors(plain.sample(0, 0).inputs, True), tensors(validation.sample(0, 0).inputs, True))


def test_size_of_the_bias(body):
    """Root mean squares over many subjects: with half of them exact and the others uniform up to twice the deviation,
    sqrt(1/2 * 4/3) of the deviation."""
    params = replace(BodyParams.zeros(2), scale=torch.full((2,), 1.1))
    deviation, expected = 0.05, 0.05 * (2 / 3) ** 0.5
    joints, leans, depths = [], [], []
    for seed in range(300):
        biased = biased_fits(params, deviation, body, torch.Generator().manual_seed(seed))
        joints.append(turned(params, biased, "body_pose")[0])
        leans.append(turned(params, biased, "global_orient")[0, 0])
        depths.append((posed_pelvis(biased, body) - posed_pelvis(params, body))[0])
    rms = [torch.stack(values).square().mean(0).sqrt() for values in (joints, leans, depths)]
    assert rms[0].mean().item() == pytest.approx(expected, rel=0.1)
    assert rms[1].tolist() == pytest.approx([expected, 0, 0], rel=0.2, abs=1e-5)
    assert rms[2].tolist() == pytest.approx([0, 0, DEPTH_SHARE * expected], rel=0.2, abs=1e-5)
