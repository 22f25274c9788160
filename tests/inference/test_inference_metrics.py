"""Metrics of infer.py, the frames and cameras that they are of, and refinement, with a tiny random network."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_capture import TinyCapture

import infer
from core.avatar.file import load_avatar
from core.checkpoint import load_checkpoint, save_checkpoint
from core.inference import evaluation, outputs
from core.inference.report import METRICS, SPLITS
from core.inference.session import open_session, session_settings
from core.inference.subject import open_subject
from core.model.hgg import HumanGaussianGraph
from core.render.backends import backend_name

FRAMES = (5, 10, 15, 20)

pytestmark = pytest.mark.usefixtures("no_player")


@pytest.mark.slow
def test_metrics(options, captures, small_protocol):
    options = replace(options, captures=captures, evaluate=True)
    infer.main(options)
    path = options.workspace / "metrics.json"
    metrics = json.loads(path.read_text())
    assert set(metrics) == {"mean", "subjects", "baselines", "settings"}
    assert set(metrics["subjects"]) == {"209801", "209802"}
    assert set(metrics["baselines"]) == {"mean_color", "vertex_color"}
    for method in (metrics, *metrics["baselines"].values()):
        for splits in (method["mean"], *method["subjects"].values()):
            assert set(splits) == set(SPLITS)
            for scores in splits.values():
                assert set(scores) == set(METRICS)
                assert scores["lpips_alex"] is None
                assert all(isinstance(scores[name], float) for name in METRICS if name != "lpips_alex")
    for split in SPLITS:
        values = [metrics["subjects"][name][split]["psnr"] for name in ("209801", "209802")]
        assert metrics["mean"][split]["psnr"] == pytest.approx(sum(values) / 2)

    settings = metrics["settings"]
    assert settings["protocol"]["subjects"]["209801"]["observed_frames"] == [5, 15]
    assert settings["protocol"]["subjects"]["209801"]["novel_frames"] == [20]
    assert not set(settings["protocol"]["subjects"]["209801"]["target_views"]) & set(
        settings["protocol"]["subjects"]["209801"]["input_views"]
    )
    assert settings["checkpoint"]["step"] == "3"
    assert settings["backend"] == backend_name("auto", torch.device("cpu"))
    assert settings["precision"] == "float32" and settings["refinement"] is None

    again = replace(options, workspace=options.workspace / "again")
    infer.main(again)
    assert json.loads((again.workspace / "metrics.json").read_text()) == metrics


def test_avatars_are_refined_unless_that_is_off(options):
    assert open_session(options).refiner.options.steps == 0
    assert open_session(replace(options, refine=None)).refiner.options.steps == 12  # without a GPU


def trained_at(checkpoint: Path, size: int, body, path: Path) -> Path:
    """A copy of a checkpoint that names the image size of its training."""
    model, _ = load_checkpoint(checkpoint, body)
    save_checkpoint(path, model, training=json.dumps({"data": {"image_size": size}}))
    return path


@pytest.mark.slow
def test_images_smaller_than_in_training_are_supersampled(options, body, tmp_path, small_protocol):
    """Measured images (64 px) and videos (48 px) of a network trained at 100 px; baselines do not change."""
    checkpoint = trained_at(options.checkpoint, 100, body, tmp_path / "c.safetensors")
    options = replace(options, checkpoint=checkpoint, evaluate=True)
    session = open_session(options)
    assert session.trained_size == 100 and session_settings(session)["supersampling"] == 2
    subject = open_subject(session, options.captures)
    plain = replace(subject, session=replace(session, trained_size=None))

    def rendered(subject, method):
        """All renderings of a method, and the target frames that they are compared with."""
        pairs = []

        def metric_suite(predicted, target):
            pairs.append((predicted, target))
            return [dict.fromkeys(METRICS, 0.0)] * len(predicted)

        evaluation.evaluate(subject, metric_suite)
        methods = len(pairs) // 3  # frames
        return [pairs[i] for i in range(method, len(pairs), methods)]

    for (image, target), (own_size, _) in zip(rendered(subject, 0), rendered(plain, 0), strict=True):
        large = plain.render(target.body, target.cameras.resized(128, 128))
        torch.testing.assert_close(image, torch.nn.functional.avg_pool2d(large, 2))
        assert (image - own_size).abs().max() > 0.01
    for method in (1, 2):
        for (image, _), (same, _) in zip(rendered(subject, method), rendered(plain, method), strict=True):
            assert image.equal(same)

    for images in (outputs.turntable_images, outputs.novel_pose_images):
        large = replace(plain, session=replace(plain.session, video_size=3 * 48))
        means = [torch.nn.functional.avg_pool2d(frame, 3) for frame in images(large)]
        torch.testing.assert_close(list(images(subject)), means, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_refined_avatars_fit_their_inputs_better_and_are_written(options, small_protocol):
    from core.losses.metrics import psnr

    options = replace(options, input_views=("22327091", "22236236"), observed_frames=(5, 10))
    distances = []
    for steps in (0, 4):
        subject = open_subject(open_session(replace(options, refine=steps)), options.captures)
        rendered = [subject.render(frame.body, frame.cameras) for frame in (subject.inputs[0], subject.inputs[1])]
        distances.append(psnr(torch.stack(rendered), subject.inputs.images).mean().item())
    assert distances[1] > distances[0] + 0.3
    assert all(p.grad is None and not p.requires_grad for p in subject.session.model.parameters())

    infer.main(replace(options, refine=4, evaluate=True))
    written = load_avatar(options.workspace / "209801" / "avatar.safetensors")
    torch.testing.assert_close(written.colors, subject.avatar.colors)
    refinement = json.loads((options.workspace / "metrics.json").read_text())["settings"]["refinement"]
    assert refinement["steps"] == 4 and refinement["rates"]["colors"] > 0


def test_feedback_renders_with_the_requested_backend(options, body, tmp_path):
    path = tmp_path / "feedback.safetensors"
    model, _ = load_checkpoint(options.checkpoint, body)
    save_checkpoint(path, HumanGaussianGraph(replace(model.options, feedback=1), body))
    session = open_session(replace(options, checkpoint=path, backend="torch"))
    assert session.model.feedback.backend == "torch"


def test_requested_frames_are_observed_and_are_no_novel_poses(options):
    """The protocol, whose frames do not exist here, would choose others."""
    options = replace(options, evaluate=True)
    default = open_subject(open_session(options), options.captures).plan
    assert (default.observed_frames, default.novel_frames) == ([5, 10], [15, 20])
    plan = open_subject(open_session(replace(options, observed_frames=(15,))), options.captures).plan
    assert (plan.observed_frames, plan.novel_frames) == ([15], [20])


@pytest.mark.slow
def test_a_capture_without_further_cameras(options, body, tmp_path, small_protocol, caplog):
    """Novel poses are measured in the input cameras; there are no novel views."""
    capture = TinyCapture(image_size=(153, 128), frames=FRAMES, num_cameras=4).write(tmp_path / "209805", body)
    infer.main(replace(options, captures=capture, evaluate=True))
    assert "209805: no novel views" in caplog.text
    metrics = json.loads((options.workspace / "metrics.json").read_text())
    assert metrics["mean"]["novel_view"] == {} and metrics["mean"]["novel_pose"]["psnr"] > 5
    assert metrics["subjects"]["209805"] == metrics["mean"]


@pytest.mark.slow
def test_no_frame_is_held_out_without_measurements(options, small_protocol, caplog):
    """`quick` holds out a frame for measurements only, or on request."""
    caplog.set_level("INFO")
    plans = {}
    for name, change in (("", {}), ("evaluate", {"evaluate": True}), ("novel", {"novel_frames": (15,)})):
        subject = open_subject(open_session(replace(options, **change)), options.captures)
        plans[name] = (subject.plan.observed_frames, subject.plan.novel_frames)
    assert plans == {"": ([5, 15], []), "evaluate": ([5, 15], [20]), "novel": ([5], [15])}
    assert "input cameras 22327091, 22327116, 22236236, 22327073; input frames 0005, 0015; held" in caplog.text


def test_all_frames_of_a_small_capture_are_inputs(options):
    """The protocol has 8 input frames, the capture 4."""
    plan = open_subject(open_session(options), options.captures).plan
    assert (plan.observed_frames, plan.novel_frames) == (list(FRAMES), [])
