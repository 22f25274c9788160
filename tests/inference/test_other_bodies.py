"""infer.py on captures whose fits are of another body than that of the checkpoint's training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_rig import TEST_MODEL
from remeshed_body import remeshed
from tiny_capture import TinyCapture

from core.checkpoint import save_checkpoint
from core.inference.options import InferenceOptions
from core.inference.session import open_session, session_settings
from core.inference.subject import open_subject
from core.model.hgg import HumanGaussianGraph
from smpl_renderer.errors import InputError


@pytest.fixture(scope="module")
def options(tmp_path_factory, body) -> InferenceOptions:
    """As of an owner of SMPL: the checkpoint was trained on the stand-in, the fits are of another body."""
    folder = tmp_path_factory.mktemp("other_bodies")
    other, _ = remeshed(body, new_vertices=300)
    arrays = {name: getattr(other, name).numpy() for name in ("v_template", "shapedirs", "posedirs", "J_regressor")}
    tree = np.array([(-1, *other.parents[1:]), range(other.num_joints)])
    np.savez(folder / "other.npz", **arrays, f=other.faces, weights=other.lbs_weights, kintree_table=tree)
    TinyCapture(image_size=(153, 128), frames=(5, 10)).write(folder / "209801", other)
    torch.manual_seed(0)
    save_checkpoint(folder / "tiny.safetensors", HumanGaussianGraph(TEST_MODEL, body))
    paths = {"captures": folder / "209801", "checkpoint": folder / "tiny.safetensors", "body": folder / "other.npz"}
    return InferenceOptions(**paths, device="cpu", refine=0, input_size=64)


@pytest.mark.slow
def test_the_checkpoint_is_transferred_to_the_body_of_the_capture(options, body, caplog):
    with caplog.at_level("INFO"):
        session = open_session(options)
    assert f"trained on the body {body.name}, transferred to other" in caplog.text
    avatar = open_subject(session, options.captures).avatar
    assert avatar.body == session.body.fingerprint != body.fingerprint
    assert avatar.count == body.num_vertices * session.model.options.graph.queries
    assert body.num_vertices <= avatar.vertex_ids.max() < session.body.num_vertices == body.num_vertices + 300
    settings = session_settings(session)
    assert settings["checkpoint"]["body"] == body.fingerprint and settings["body"] == session.body.fingerprint


def test_a_body_that_is_not_installed_is_named_with_its_capture(options):
    with pytest.raises(InputError, match="209801: its body is not found: no body with fingerprint"):
        open_session(replace(options, body=None))
