"""The player in a browser: its images equal ours; controls, timeline and touch; no network."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.avatar.avatar import pose_avatar
from core.avatar.rendering import render_gaussians
from core.export.html import FIELD_OF_VIEW, PLAYER, SCRIPTS, save_html, view_of
from core.export.quantized import dequantize, quantize
from core.export.skeleton import bake, low_rank_correctives
from core.inference.animation import camera_path
from core.motion.builtin import builtin_motion
from core.motion.motion import apply_motion
from scripts.benchmarks.chromium import Chromium, find_chromium
from scripts.benchmarks.player import player, time_player
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

NAMES = ("wave", "walk", "squat")
needs_browser = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium or Chrome")


@pytest.fixture(scope="module")
def avatar(plain):
    """One coloured Gaussian per vertex."""
    avatar = plain[0]
    phase = torch.linspace(0, 40, avatar.count)[:, None] + torch.tensor([0.0, 2, 4])
    return replace(avatar, colors=0.5 + 0.4 * torch.sin(phase))


@pytest.fixture(scope="module")
def page(avatar, body, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "a & b.html"
    save_html(path, avatar, body, [builtin_motion(name, body) for name in NAMES], title="<A & B>")
    return path


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("browser") / "profile", (700, 560)) as browser:
        browser.open(page.as_uri() + "#paused=1&time=0.25")
        browser.evaluate("player.then(p => { window.p = p; })")
        yield browser


def show(browser, **settings):
    """Apply settings; the image that is then shown, as floats [H, W, 4]."""
    browser.evaluate(f"p.show({settings!r})".replace("True", "true").replace("False", "false"))
    data = browser.evaluate("p.capture()").split(",")[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(np.float32) / 255


@pytest.mark.slow
def test_the_page_needs_nothing_from_elsewhere(page):
    text = page.read_text()
    assert len(text) < 2e6 and "{{" not in text
    assert "<title>&lt;A &amp; B&gt;</title>" in text
    assert not re.search(
        r"https?://(?!www\.w3\.org)|src=|@import|fetch\(|XMLHttp", re.sub(r'id="data">[^<]*', "", text)
    )


def test_a_page_needs_a_motion(avatar, body, tmp_path):
    with pytest.raises(InputError, match="--motion"):
        save_html(tmp_path / "a.html", avatar, body, [])


@pytest.mark.slow
def test_low_rank_correctives_reproduce_the_body(body):
    clips = [bake(builtin_motion(name, body), body, torch.zeros(body.num_betas)) for name in NAMES]
    small, exact = (low_rank_correctives(body, clips, tolerance, 32) for tolerance in (2e-3, 1e-5))
    assert small.max_error <= 2e-3 and small.basis.shape[1] < exact.basis.shape[1]


@needs_browser
@pytest.mark.slow
def test_images_equal_those_of_our_renderer(browser, avatar, body):
    """The 8-bit avatar in two motions, from the camera of the page, at 512 px on white."""
    seen = dequantize(quantize(avatar, body.num_vertices))
    view = view_of(body, [bake(builtin_motion(name, body), body, avatar.betas) for name in NAMES])
    for name, frame, azimuth in (("walk", 8, 0.6), ("squat", 30, -2.0)):
        motion = builtin_motion(name, body)
        poses = apply_motion(motion, body, avatar.betas)[frame : frame + 1]
        cameras = camera_path(body, poses, 512, "follow", azimuth)
        cameras = replace(cameras, viewmats=_viewmat(body, poses, view, azimuth))
        assert cameras.Ks[0, 0, 0].item() == pytest.approx(256 / np.tan(FIELD_OF_VIEW / 2), rel=1e-5)
        ours = render_gaussians(pose_avatar(seen, body, poses), cameras[:, None]).colors[0, 0].permute(1, 2, 0).numpy()
        given = {"motion": name, "time": frame / motion.fps, "azimuth": float(np.degrees(azimuth)), "paused": True}
        image = show(browser, **given, elevation=8, size=512, shadow=False, ui=False)[..., :3]
        assert image.shape == ours.shape
        error = ((image - ours.clip(0, 1)) ** 2).mean()
        # Half floats, 16-bit rotations and correctives of low rank: 1 % of a level on average, a little more at edges.
        assert -10 * np.log10(error) > 35, (name, error)
        assert (ours < 0.9).any(-1).mean() > 0.03  # the avatar is in the image


def _viewmat(body, poses, view, azimuth):
    from core.types.cameras import look_at

    pelvis = body(poses).joints[:, 0] * torch.tensor([1.0, 0, 1.0])
    target = pelvis + torch.tensor([0.0, view.height, 0.0])
    elevation = np.radians(8)
    away = [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    away = torch.tensor(away, dtype=torch.float32)
    return look_at(target + view.distance * away, target, torch.tensor([0.0, 1.0, 0.0]))


@needs_browser
@pytest.mark.slow
def test_controls_change_what_is_shown(browser):
    show(browser, ui=True, size=0, shadow=True, motion="wave", time=0.25, azimuth=20, elevation=8, zoom=1, paused=True)

    def settings():
        return browser.evaluate("({...p.settings})")

    def drag(steps, **more):
        for kind, x, y in steps:
            browser.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1, **more
            )

    before = show(browser)
    drag([("mousePressed", 300, 200), ("mouseMoved", 340, 180), ("mouseReleased", 340, 180)])
    assert settings()["azimuth"] == pytest.approx(20 - 0.4 * 40) and settings()["elevation"] == pytest.approx(8 - 6)
    assert np.abs(show(browser) - before).max() > 0.2
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=300, y=200, deltaX=0, deltaY=-200)
    browser.evaluate("p.show()")
    assert settings()["zoom"] > 1.2

    touch = [{"x": 300, "y": 200, "id": 0}, {"x": 400, "y": 200, "id": 1}]
    zoom = settings()["zoom"]
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=touch)
    moved = [touch[0], touch[1] | {"x": 480}]
    browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=moved)
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.evaluate("p.show()")
    assert settings()["zoom"] == pytest.approx(zoom * 1.8, rel=0.02)

    browser.evaluate("document.getElementById('reset').click()")
    browser.evaluate("p.show()")
    assert (settings()["azimuth"], settings()["zoom"]) == (20, 1)
    assert browser.evaluate("[...document.getElementById('motions').children].map(b => b.textContent)") == list(NAMES)
    browser.evaluate("document.getElementById('motions').children[1].click()")
    browser.evaluate("p.show({time: 0.5})")
    assert settings()["motion"] == "walk"
    browser.evaluate(
        "(t => { t.value = 0.3; t.dispatchEvent(new Event('input')); })(document.getElementById('timeline'))"
    )
    browser.evaluate("p.show()")
    assert settings()["time"] == pytest.approx(0.3, abs=0.01) and settings()["paused"]
    browser.evaluate("document.getElementById('play').click()")
    browser.evaluate("new Promise(done => setTimeout(done, 300))")
    assert settings()["time"] > 0.3 and not settings()["paused"]
    browser.evaluate("document.getElementById('play').click()")


@needs_browser
@pytest.mark.slow
def test_a_transparent_background_has_straight_edges(browser):
    image = show(browser, background="transparent", shadow=False, size=128, ui=False, paused=True)
    assert image[0, 0, 3] == 0 and image[..., 3].max() > 0.95
    assert browser.evaluate("document.getElementById('message').textContent") == ""


@needs_browser
@pytest.mark.slow
def test_stages_of_a_frame_are_timed(page):
    timing, graphics = time_player(page, 64, 2)
    assert timing.size == 64 and timing.gaussians > 5000 and timing.draw_ms > 0 and timing.ratio > 0 and graphics
    other = page.with_name("other.html")
    other.write_text("<html></html>")
    with pytest.raises(InputError, match=r"other\.html: plays no avatar"):
        player(other)


@pytest.mark.parametrize("name", ["style.css", *SCRIPTS])
def test_the_page_in_the_documents_has_the_present_player(name):
    """Otherwise write it again with `scripts/export.py --to html`."""
    assert (PLAYER / name).read_text() in (REPOSITORY / "docs/demo.html").read_text()
