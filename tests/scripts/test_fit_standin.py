"""Captures of another body, whose mesh and shape are its own, copied as captures of the stand-in."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_body import foreign_body
from scipy.spatial import KDTree

from core.capture import other_body
from core.capture.other_body import copy_to_standin
from core.capture.refit import RefitOptions
from core.data.fits import posed_vertices
from core.data.readers import open_capture
from core.data.refit_files import refit_path, write_refit
from scripts.fit_body import main
from smpl_renderer.body_files import SMPL_FILES
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY
from smpl_renderer.fitting import posed_vertices as posed_fits
from smpl_renderer.fitting.posed_vertices import VertexTargets, fit_poses
from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.types import BodyParams

pytestmark = pytest.mark.usefixtures("one_thread")

SHIPPED = REPOSITORY / "test_dataset/209903"
FRAMES = (55, 155, 305)


@pytest.fixture(scope="module", autouse=True)
def fit_skin():
    """The function; equal targets, which are most of a test's time, are fitted once."""
    skins = {}

    def fit(targets: VertexTargets, body) -> posed_fits.Skin:
        key = hashlib.sha256(
            b"".join(b"-" if x is None else x.numpy().tobytes() for x in vars(targets).values())
        ).digest()
        if key not in skins:
            skins[key] = posed_fits.fit_skin(targets, body)
        return skins[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_body, "fit_skin", fit)
        yield fit


@pytest.fixture(scope="module")
def other(body):
    return foreign_body(body)


@pytest.fixture(scope="module")
def true():
    return BodyParams.stack([open_capture(SHIPPED).fit(frame).to(torch.float32) for frame in FRAMES])


def write_record(folder: Path, frame: int, other, params: BodyParams, **changes) -> None:
    """A file of smpl_param, as MVHumanNet's."""
    with torch.no_grad():
        posed = other(params)
    rotations = axis_angle_to_matrix(torch.cat([params.global_orient, params.body_pose]).view(24, 3))[None]
    record = {
        "global_orient": rotations[:, :1].clone(),
        "body_pose": rotations[:, 1:].clone(),
        "full_pose": rotations,
        "betas": params.betas[None].clone(),
        "vertices": posed.vertices[None].clone(),
        "joints": torch.cat([posed.joints, posed.vertices[:21]])[None],
        "faces": other.faces.numpy().astype(np.uint32),
        "transl": None,
    } | changes
    path = folder / f"smpl_param/{frame // 5 - 1:06d}.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({key: value for key, value in record.items() if value is not ...}, protocol=4))


@pytest.fixture
def subject(tmp_path, other, true) -> Path:
    """A shipped capture with fits of the other body, and no record of it, as MVHumanNet's are."""
    folder = tmp_path / "mvhuman_24/209903"
    folder.mkdir(parents=True)
    for path in SHIPPED.iterdir():
        if path.is_file() and path.name != "body.json":
            shutil.copy(path, folder)
        elif path.name in ("images_lr", "fmask_lr"):
            (folder / path.name).symlink_to(path)
    for i, frame in enumerate(FRAMES):
        write_record(folder, frame, other, true[i])
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """All entries of a folder but what links lead to."""
    return {str(p): None if p.is_dir() else p.read_bytes() for p in sorted(folder.rglob("*")) if not p.is_symlink()}


def surface_distance(vertices, other_vertices) -> float:
    """Mean distance in millimetres to the closest vertex; some 5 mm between samples of one surface."""
    return 1000 * float(KDTree(vertices.numpy()).query(other_vertices.numpy())[0].mean())


@pytest.mark.slow
@pytest.mark.parametrize("given", ["faces and joints", "points"])
def test_body_meets_the_vertices_of_another_shape(body, other, true, given, fit_skin):
    pose = torch.cat([true.global_orient, true.body_pose], -1).unflatten(-1, (24, 3))
    with torch.no_grad():
        posed, unfitted = other(true), body(true).vertices
    known = {"joints": posed.joints, "faces": other.faces} if given != "points" else {}
    targets = VertexTargets(posed.vertices, pose, **known)
    fit = fit_poses(targets, body, fit_skin(targets, body))
    assert fit.errors.max() < 0.006
    with torch.no_grad():
        fitted = body(fit.params).vertices
    for i in range(len(FRAMES)):  # without a fit, the surfaces are apart
        assert surface_distance(fitted[i], posed.vertices[i]) < 0.85 * surface_distance(unfitted[i], posed.vertices[i])
    assert (fit.params.betas == fit.params.betas[0]).all() and (fit.params.scale == fit.params.scale[0]).all()
    turned = (fit.params.body_pose - true.body_pose).unflatten(-1, (23, 3)).norm(dim=-1)
    assert turned.mean() < 0.08


@pytest.mark.slow
def test_copy_is_read_as_a_capture_of_the_standin(subject, body, other, true):
    before = contents(subject)
    out = subject.parent / "copy"
    report = copy_to_standin(subject, out, RefitOptions(device="cpu"))
    assert report.written == list(FRAMES) and not report.failed and max(report.errors) < 0.006
    assert contents(subject) == before
    copy = open_capture(out)
    assert copy.body().fingerprint == body.fingerprint
    assert copy.camera_names == open_capture(SHIPPED).camera_names
    for i, frame in enumerate(FRAMES):
        with torch.no_grad():
            expected = other(true[i]).vertices
        assert surface_distance(posed_vertices(copy.fit(frame), body), expected.double()) < 8
        assert refit_path(out, frame).with_suffix(".ply").is_file()


@pytest.mark.slow
def test_run_resumes_and_lists_are_linked(subject, other, true, caplog):
    root = subject.parent
    (root / "human.json").write_text(json.dumps({"human_id": ["209903"]}))
    options = RefitOptions(device="cpu", points=False, frames=FRAMES[:2])
    main(root, options, workers=0, standin=True)
    out = root.with_name("mvhuman_24_standin")
    first = refit_path(out / "209903", FRAMES[0])
    assert (out / "human.json").is_file() and not first.with_suffix(".ply").exists()
    stamp = first.stat().st_mtime_ns
    whole = copy_to_standin(subject, out / "209903", RefitOptions(device="cpu", points=False))
    assert whole.skipped == list(FRAMES[:2]) and whole.written == [FRAMES[2]]
    assert first.stat().st_mtime_ns == stamp
    records = [json.loads(refit_path(out / "209903", frame).read_text()) for frame in FRAMES]
    for record in records[1:]:  # one shape and scale, also of the frame that was fitted later
        np.testing.assert_allclose(record["betas"], records[0]["betas"], atol=1e-5)
        assert record["scale"] == pytest.approx(records[0]["scale"], abs=1e-5)


@pytest.mark.slow
def test_frames_without_vertices_and_broken_ones_are_named(subject, other, true, tmp_path):
    write_record(subject, FRAMES[0], other, true[0], vertices=...)
    write_record(subject, FRAMES[1], other, true[1], vertices=torch.full((1, 5, 3), float("nan")))
    report = copy_to_standin(subject, tmp_path / "copy", RefitOptions(device="cpu", points=False))
    assert report.written == [FRAMES[2]]
    assert "no posed `vertices`" in report.failed[FRAMES[0]] and "NaN" in report.failed[FRAMES[1]]


@pytest.mark.slow
def test_refits_with_points_come_first(subject, body, other, true, tmp_path):
    moved = true[0].to(torch.float32)
    moved = BodyParams(moved.betas, moved.global_orient, moved.body_pose, moved.transl + 0.1, moved.scale)
    with torch.no_grad():
        vertices = other(moved).vertices
    write_refit(subject, FRAMES[0], moved, vertices)
    report = copy_to_standin(subject, tmp_path / "copy", RefitOptions(device="cpu", frames=FRAMES[:1]))
    assert report.written == [FRAMES[0]]
    fitted = posed_vertices(open_capture(tmp_path / "copy").fit(FRAMES[0]), body)
    assert surface_distance(fitted, vertices.double()) < 8


def test_folders_of_others_are_not_written_into(subject, tmp_path):
    for out in (subject, subject / "copy"):
        with pytest.raises(InputError, match="--out"):
            copy_to_standin(subject, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="--out"):
        copy_to_standin(subject, tmp_path / "full")
    with pytest.raises(InputError, match="stand-in body already"):
        copy_to_standin(SHIPPED, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@pytest.mark.skipif(any(path.is_file() for path in SMPL_FILES), reason="SMPL is installed")
def test_missing_smpl_names_the_command(subject):
    with pytest.raises(InputError, match=r"fit_body\.py ROOT --standin"):
        open_capture(subject).fit(FRAMES[0])
