"""infer.py from end to end, with a tiny random network on tiny captures, and its errors."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from motion_files import Truth, write_bvh
from PIL import Image
from tiny_capture import TinyCapture

import infer
from core.avatar.avatar import canonical_gaussians
from core.avatar.file import load_avatar, load_views_seen
from core.checkpoint import load_checkpoint, save_checkpoint
from core.export.ply import load_ply
from core.inference import evaluation, outputs
from core.inference.options import InferenceOptions
from core.inference.outputs import FILES
from core.inference.report import METRICS, SPLITS
from core.inference.session import open_session, session_settings
from core.inference.subject import open_subject
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions, UNetOptions
from core.render.backends import backend_name
from core.utils.cli import run
from smpl_renderer.errors import InputError

ROOT = Path(__file__).parents[2]
FRAMES = (5, 10, 15, 20)

TINY = ModelOptions(
    unet=UNetOptions(
        input_size=32,
        splat_size=16,
        down_channels=(16, 16),
        down_attention=(False, False),
        mid_attention=False,
        up_channels=(16,),
        up_attention=(False,),
        layers_per_block=1,
    ),
    graph=GraphOptions(features=16, queries=1, layers=1, heads=2),
)


@pytest.fixture(scope="module")
def captures(tmp_path_factory, body):
    """Two subjects of 4 frames; four input cameras and two others."""
    root = tmp_path_factory.mktemp("captures")
    for name in ("209801", "209802"):
        TinyCapture(image_size=(153, 128), frames=FRAMES).write(root / name, body)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, body):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, HumanGaussianGraph(TINY, body), step=3)
    return path


@pytest.fixture
def options(captures, checkpoint, tmp_path, monkeypatch):
    """One subject, on the CPU, with the shortest videos."""
    monkeypatch.setattr(outputs, "PLAYER_MOTIONS", ("idle",))  # the fastest to make
    return InferenceOptions(
        captures=captures / "209801",
        checkpoint=checkpoint,
        workspace=tmp_path / "out",
        device="cpu",
        backend="torch",
        refine=0,
        input_size=64,
        video_size=48,
        video_frames=3,
    )


@pytest.fixture
def small_protocol(monkeypatch):
    """`quick` with 2 observed frames, 1 held out, 1 target camera, 64 px; a substitute for LPIPS, of VGG only."""
    from core.inference import session

    quick = replace(
        session.PROTOCOLS["quick"], observed_frames=(5, 15), novel_frames=(20,), image_size=64, target_views=1
    )
    monkeypatch.setitem(session.PROTOCOLS, "quick", quick)

    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().mean((-3, -2, -1))

    monkeypatch.setattr(evaluation, "load_lpips", lambda net: Difference() if net == "vgg" else None)


def refusal(main, capsys) -> str:
    """The one line of an error, without progress bars."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_writes_everything_for_a_subject(options, body, small_protocol):
    infer.main(options)
    folder = options.workspace / "209801"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert sorted(p.name for p in options.workspace.iterdir()) == ["209801", "index.html"]  # no temporary files
    for page in (folder / "index.html", options.workspace / "index.html"):
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.read_text())
        assert len(links) > 5 and all((page.parent / link).is_file() for link in links)
        assert page.read_text().count("python scripts/") == 3 and "<iframe" in page.read_text()

    avatar = load_avatar(folder / "avatar.safetensors")
    assert avatar.body == body.fingerprint and avatar.count == body.num_vertices
    seen = load_views_seen(folder / "avatar.safetensors", body.num_vertices)
    assert 0.3 < (seen > 0).float().mean() <= 1  # stored for the viewer
    expected = canonical_gaussians(avatar, body)
    read = load_ply(folder / "avatar.ply")
    torch.testing.assert_close(read.means, expected.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(read.colors, expected.colors, rtol=0, atol=1e-5)

    for name in ("turntable.mp4", "novel_pose.mp4"):
        with av.open(str(folder / name)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert [f.shape for f in frames] == [(48, 48, 3)] * 3
        # Each image shows the subject, on white.
        assert all(f.min() < 150 and np.median(f) > 240 for f in frames)
        assert np.abs(frames[0].astype(int) - frames[1]).max() > 30  # the camera or the body moves
    with Image.open(folder / "comparison.png") as sheet:
        assert sheet.width > 4 * 300 and sheet.height > 3 * 300  # inputs, novel views, novel poses


@pytest.mark.parametrize("images", [outputs.turntable_images, outputs.novel_pose_images])
def test_videos_do_not_depend_on_the_frames_per_call(options, small_protocol, monkeypatch, images):
    subject = open_subject(open_session(options), options.captures)
    frames = {}
    for size in (1, 2, 16):
        monkeypatch.setattr(outputs, "FRAMES_PER_CALL", size)
        frames[size] = torch.stack(list(images(subject)))
    assert frames[1].shape == (3, 3, 48, 48)
    for size in (2, 16):
        torch.testing.assert_close(frames[size], frames[1], rtol=0, atol=1e-4)


def test_metrics(options, captures, small_protocol):
    options = replace(options, captures=captures, evaluate=True, backend="auto")
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
    save_checkpoint(path, HumanGaussianGraph(replace(TINY, feedback=1), body))
    session = open_session(replace(options, checkpoint=path, backend="torch"))
    assert session.model.feedback.backend == "torch"


def test_one_camera_and_chosen_frames(options, small_protocol):
    infer.main(replace(options, input_views=("22236222",), observed_frames=(10, 20)))
    assert (options.workspace / "209801" / "comparison.png").is_file()


def test_requested_frames_are_observed_and_are_no_novel_poses(options):
    """The protocol, whose frames do not exist here, would choose others."""
    options = replace(options, evaluate=True)
    default = open_subject(open_session(options), options.captures).plan
    assert (default.observed_frames, default.novel_frames) == ([5, 10], [15, 20])
    plan = open_subject(open_session(replace(options, observed_frames=(15,))), options.captures).plan
    assert (plan.observed_frames, plan.novel_frames) == ([15], [20])


def test_a_capture_without_further_cameras(options, body, tmp_path, small_protocol, caplog):
    """Novel poses are measured in the input cameras; there are no novel views."""
    capture = TinyCapture(image_size=(153, 128), frames=FRAMES, num_cameras=4).write(tmp_path / "209805", body)
    infer.main(replace(options, captures=capture, evaluate=True))
    assert "209805: no novel views" in caplog.text
    metrics = json.loads((options.workspace / "metrics.json").read_text())
    assert metrics["mean"]["novel_view"] == {} and metrics["mean"]["novel_pose"]["psnr"] > 5
    assert metrics["subjects"]["209805"] == metrics["mean"]


def sheet_rows(workspace: Path, subject: str = "209801") -> int:
    with Image.open(workspace / subject / "comparison.png") as sheet:
        return sheet.height // (300 + 20)


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


@pytest.mark.parametrize("change", [{"observed_frames": (5,)}, {"observed_frames": FRAMES}])
def test_all_cameras_as_inputs(options, change, small_protocol):
    """There is no novel view; the sheet has the inputs, their renderings and, if there are any, novel poses."""
    cameras = tuple(path.name for path in (options.captures / "images_lr").iterdir())
    infer.main(replace(options, input_views=cameras, **change))
    assert sheet_rows(options.workspace) == (3 if change["observed_frames"] == (5,) else 2)
    assert sorted(p.name for p in (options.workspace / "209801").iterdir()) == sorted(FILES)


def test_a_capture_of_one_frame_has_a_novel_pose_video(options, body, tmp_path):
    """Without further fits a built-in motion is shown."""
    capture = TinyCapture(image_size=(153, 128), frames=(5,)).write(tmp_path / "209806", body)
    infer.main(replace(options, captures=capture))
    subject = open_subject(open_session(options), capture)
    poses, _ = outputs.novel_poses(subject)
    assert poses.body_pose.shape == (options.video_frames, 69)
    assert (poses.body_pose - subject.inputs.body.body_pose).abs().max() > 0.3
    with av.open(str(options.workspace / "209806" / "novel_pose.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == options.video_frames
    assert sheet_rows(options.workspace, "209806") == 2
    infer.main(replace(options, captures=capture, evaluate=True))
    metrics = json.loads((options.workspace / "metrics.json").read_text())
    assert metrics["mean"]["novel_pose"] == {} and metrics["mean"]["novel_view"]["psnr"] > 5


def test_the_video_shows_a_motion_by_name_or_file(options, body, tmp_path, monkeypatch):
    motion = write_bvh(tmp_path / "clip.bvh", Truth(body, 48.0, count=11), "mixamo")
    for given, count in ((str(motion), 6), ("walk", 3)):  # 10 / 48 seconds at 24 frames per second
        some = replace(options, motion=given, video_frames=None)
        session = replace(open_session(some), video_frames=3)
        subject = open_subject(session, options.captures)
        poses, follows = outputs.novel_poses(subject)
        assert len(poses.scale) == count and follows
        frames = list(outputs.novel_pose_images(subject))
        assert len(frames) == count and all(frame.min() < 0.6 for frame in frames)
    with pytest.raises(InputError, match="moonwalk"):
        open_session(replace(options, motion="moonwalk"))


def test_one_image_as_input(options, small_protocol):
    infer.main(replace(options, observed_frames=(5,), input_views=("22236222",)))
    assert sheet_rows(options.workspace) == 3


def test_held_out_frames_leave_an_input(options, capsys):
    line = refusal(lambda: infer.main(replace(options, novel_frames=FRAMES)), capsys)
    assert "--novel-frames names all frames" in line
    line = refusal(lambda: infer.main(replace(options, novel_frames=(5,), observed_frames=(5, 10))), capsys)
    assert "both name 0005" in line


def test_ply_with_harmonics_for_other_viewers(options):
    from plyfile import PlyData

    read = {}
    for degree in (0, 3):
        infer.main(replace(options, ply_degree=degree))
        path = options.workspace / "209801" / "avatar.ply"
        vertices = PlyData.read(str(path))["vertex"]
        names = [p.name for p in vertices.properties]
        assert [n for n in names if n.startswith("f_rest_")] == [f"f_rest_{i}" for i in range(45 if degree else 0)]
        assert all((vertices[n] == 0).all() for n in names if n.startswith("f_rest_"))
        read[degree] = load_ply(path)
    torch.testing.assert_close(read[3].colors, read[0].colors)
    assert (
        names.index("f_rest_0") == names.index("f_dc_2") + 1 and names.index("f_rest_44") == names.index("opacity") - 1
    )


def test_unknown_camera(options, small_protocol, capsys):
    line = refusal(lambda: infer.main(replace(options, input_views=("22327091", "99999999"))), capsys)
    assert "99999999" in line and "22236222" in line  # the requested one, and the existing ones
    assert not options.workspace.exists()


def test_unknown_frame(options, small_protocol, capsys):
    line = refusal(lambda: infer.main(replace(options, observed_frames=(5, 7))), capsys)
    assert "0007" in line and "0005, 0010" in line


def test_checkpoint_for_another_body(options, body, tmp_path, small_protocol, capsys):
    capture = tmp_path / "209803"
    shutil.copytree(options.captures, capture)
    (capture / "body.json").write_text(json.dumps({"fingerprint": "0123456789abcdef"}))
    line = refusal(lambda: infer.main(replace(options, captures=capture)), capsys)
    assert "0123456789abcdef" in line and "209803" in line
    (capture / "body.json").unlink()  # then its fits are of SMPL
    line = refusal(lambda: infer.main(replace(options, captures=capture)), capsys)
    assert "SMPL" in line and "209803" in line
    assert not options.workspace.exists()


def test_an_unreadable_image_leaves_no_output(options, tmp_path, small_protocol, capsys):
    capture = tmp_path / "209804"
    shutil.copytree(options.captures, capture)
    # A held-out frame: it is read for the sheet, after the other files have been written.
    for image in capture.glob("images_lr/22236*/0020_img.jpg"):
        image.write_bytes(image.read_bytes()[:300])
    line = refusal(lambda: infer.main(replace(options, captures=capture, novel_frames=(20,))), capsys)
    assert "0020_img.jpg" in line
    assert not options.workspace.exists() or not list(options.workspace.iterdir())


def test_other_files_are_not_overwritten(options, small_protocol, capsys):
    """The workspace is the folder of captures: results would replace the captures."""
    line = refusal(lambda: infer.main(replace(options, workspace=options.captures.parent)), capsys)
    assert "--workspace" in line
    assert (options.captures / "camera_extrinsics.json").is_file()


def test_cuda_that_is_not_available_is_refused(options, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refusal(lambda: infer.main(replace(options, device="cuda")), capsys)
    assert "cuda" in line and "--device cpu" in line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"captures": Path("no/such/folder")}, "no/such/folder"),
        ({"checkpoint": Path("no_such.safetensors")}, "no_such.safetensors"),
        ({"backend": "opengl"}, "opengl"),
        ({"protocol": "paper"}, "200102"),
        ({"body": Path("no_such_body.pkl")}, "no_such_body.pkl"),
        ({"refine": -1}, "--refine must be at least 0"),
        ({"attention": "flash"}, "attention must be one of sdpa, xformers"),
        ({"attention": "xformers"}, "attention xformers cannot be loaded"),
    ],
)
def test_missing_things_are_named(options, change, named, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)  # as if it was not installed
    assert named in refusal(lambda: infer.main(replace(options, **change)), capsys)
    assert not options.workspace.exists()


@pytest.mark.slow
def test_command_line(captures):
    """The program itself: one line, status 2, no traceback."""
    arguments = [captures / "209801", "--checkpoint", "no_such.safetensors", "--device", "cpu"]
    result = subprocess.run([sys.executable, ROOT / "infer.py", *arguments], capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "no_such.safetensors" in result.stderr
