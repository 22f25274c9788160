"""The pipeline on drawn people: a stub stands in for the networks, and bodies are the drawn ones unless stated."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from drawn_captures import OPTIONS, prepare, read, save, silhouettes, stored_bodies, stored_cameras, turning
from drawn_person import HEIGHT, WIDTH, StubReader, TrueFit, draw, standing
from PIL import Image

from core.capture.prepare import capture_of, prepare_capture
from core.capture.quality import mask_iou
from smpl_renderer.errors import InputError


def test_images_become_a_capture(tmp_path, body):
    frames = turning(body)
    out = prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out")
    capture, quality = read(out)
    assert capture["format"] == "hgg-capture" and capture["up"] == "-y"
    assert capture["body"] == {"name": body.name, "fingerprint": body.fingerprint}
    # Of eight directions, four at right angles.
    assert len({frame["id"] for frame in capture["frames"]}) == 4
    assert {frame["id"] % 2 for frame in capture["frames"]} == {capture["frames"][0]["id"] % 2}
    assert quality["turn_degrees"] == 360 and not any("seen" in warning for warning in quality["warnings"])
    drawn = silhouettes(stored_bodies(out, capture), body, stored_cameras(capture))
    for row, frame in zip(drawn, capture["frames"]):
        mask = np.asarray(Image.open(out / frame["masks"]["camera"]))
        image = np.asarray(Image.open(out / frame["images"]["camera"]))
        assert image.shape == (HEIGHT, WIDTH, 3) and mask.shape == (HEIGHT, WIDTH)
        assert mask_iou(row[0], mask) > 0.93  # the mask was sharpened on a patterned wall
    for name in ("overlay.png", "index.html", "landmarks.json"):
        assert (out / name).is_file()


@pytest.mark.slow
def test_nothing_is_done_again_unless_something_changed(tmp_path, body):
    frames = turning(body)
    photos = save(frames, tmp_path / "photos")
    fit = TrueFit(frames)
    out = prepare(frames, photos, tmp_path / "out", fit=fit)
    prepare(frames, photos, tmp_path / "out", fit=fit)
    assert len(fit.calls) == 1
    prepare(frames, photos, tmp_path / "out", replace(OPTIONS, frames=3), fit=fit)
    assert len(fit.calls) == 2 and len(read(out)[0]["frames"]) == 3
    Image.fromarray(frames[1].image).save(photos / "0001.png")
    prepare(frames, photos, tmp_path / "out", replace(OPTIONS, frames=3), fit=fit)
    assert len(fit.calls) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"frames": 0}, "--frames must be at least 1"), ({"height": 170.0}, "--height"), ({"focal": -1.0}, "--focal")],
)
def test_options_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        prepare_capture(tmp_path, tmp_path / "out", replace(OPTIONS, **change), reader=NoReader())


def test_a_folder_with_other_files_is_left_alone(tmp_path, body):
    frames = turning(body, 4)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="other files"):
        prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").is_file()


def write_video(path, frames, rotation=0, repeat=3):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        first = np.rot90(frames[0].image, -rotation // 90)
        stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            pixels = np.ascontiguousarray(np.rot90(frame.image, -rotation // 90))
            for _ in range(repeat):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
def test_a_video_becomes_a_capture_in_the_workspace(tmp_path, body, monkeypatch):
    frames = turning(body)
    video = write_video(tmp_path / "me.mp4", frames)
    monkeypatch.setattr("core.capture.prepare._open_reader", lambda options: StubReader(frames))
    monkeypatch.setattr("core.capture.prepare.prepare_capture.__kwdefaults__", {"reader": None, "fit": TrueFit(frames)})
    out = capture_of(video, tmp_path / "workspace", OPTIONS)
    assert out == tmp_path / "workspace" / "me" / "capture"
    capture, _ = read(out)
    times = [frame["time"] for frame in capture["frames"]]
    assert len(times) == 4 and times == sorted(times) and times[-1] > 1
    # Frame ids are the numbers of the video's frames, from 1.
    assert [frame["id"] for frame in capture["frames"]] == [round(time * 10) + 1 for time in times]


def test_rotated_videos_are_turned_upright(tmp_path, body):
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write rotation flags")
    frames = turning(body, 4)
    video = write_video(tmp_path / "phone.mp4", frames, rotation=-90)
    capture, _ = read(prepare(frames, video, tmp_path / "out"))
    assert (capture["cameras"]["phone"]["width"], capture["cameras"]["phone"]["height"]) == (WIDTH, HEIGHT)
    assert len(capture["frames"]) == 4  # the stub read all codes, so images were upright


def test_frames_without_a_person_are_named(tmp_path, body):
    frames = turning(body, 6)
    frames[2] = draw(body, 2, [])
    _, quality = read(prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out", replace(OPTIONS, frames=8)))
    assert ["0003.png", "no person"] in quality["left_out"]
    assert [frame["id"] for frame in quality["frames"]] == [1, 2, 4, 5, 6]


def test_nobody_in_view_is_refused(tmp_path, body):
    frames = [draw(body, i, []) for i in range(3)]
    with pytest.raises(InputError, match="no person"):
        prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("person", [1, 2])
def test_one_of_two_people(tmp_path, body, person):
    """The nearer one is person 1. Masks hold no other person."""
    frames = [
        draw(body, i, [standing(a, x=-0.5, depth=4.0), standing(-a, x=0.5, depth=3.3)])
        for i, a in enumerate(np.linspace(0, 5, 6))
    ]
    options = replace(OPTIONS, person=person)
    out = prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out", options)
    capture, quality = read(out)
    bodies = stored_bodies(out, capture)
    assert bodies.transl[:, 2].mean() == pytest.approx(3.3 if person == 1 else 4.0, abs=0.01)
    assert any("2 people" in note for note in quality["notes"])
    for frame in capture["frames"]:
        columns = (np.asarray(Image.open(out / frame["masks"]["camera"])) > 127).any(0).nonzero()[0]
        assert columns.mean() > WIDTH / 2 if person == 1 else columns.mean() < WIDTH / 2
        assert np.ptp(columns) < WIDTH / 2
    with pytest.raises(InputError, match="--person 3"):
        prepare(frames, tmp_path / "photos", tmp_path / "other", replace(OPTIONS, person=3))


@pytest.mark.slow
def test_bodies_cut_off_are_left_out_or_reported(tmp_path, body):
    whole = turning(body, 4)
    cut = [draw(body, 4 + i, [replace(standing(0.3 * i), transl=torch.tensor([0.0, 1.1, 3.4]))]) for i in range(2)]
    _, quality = read(prepare(whole + cut, save(whole + cut, tmp_path / "a"), tmp_path / "out"))
    assert {"0005.png", "0006.png"} == {label for label, reason in quality["left_out"] if "the feet" in reason}
    frames = [draw(body, i, [replace(standing(0.5 * i), transl=torch.tensor([0.0, 1.1, 3.4]))]) for i in range(4)]
    _, quality = read(prepare(frames, save(frames, tmp_path / "b"), tmp_path / "out2"))
    assert any("the feet are outside the image in 4 of 4" in warning for warning in quality["warnings"])


def test_one_image(tmp_path, body):
    frames = [draw(body, 0, [standing(0.2)])]
    photo = save(frames, tmp_path / "photo") / "0001.png"
    capture, quality = read(prepare(frames, photo, tmp_path / "out"))
    assert len(capture["frames"]) == 1
    assert any("one image only" in warning for warning in quality["warnings"])


@pytest.mark.slow
def test_a_moving_camera_is_found_out(tmp_path, body):
    still, moving = turning(body), [draw(body, i, [standing(0.7 * i)], shift=9 * i) for i in range(8)]
    for name, frames, expected in (("still", still, False), ("moving", moving, True)):
        fit = TrueFit(frames)
        _, quality = read(prepare(frames, save(frames, tmp_path / name), tmp_path / f"{name}_out", fit=fit))
        assert fit.calls[0][1].moving_camera is expected
        assert any("camera moves" in warning for warning in quality["warnings"]) is expected
    fit = TrueFit(moving)
    prepare(moving, tmp_path / "moving", tmp_path / "given", replace(OPTIONS, moving_camera=False), fit=fit)
    assert fit.calls[0][1].moving_camera is False


@pytest.mark.slow
def test_what_no_image_shows_is_named(tmp_path, body):
    """From the front only: about half of the surface."""
    turned, front = turning(body), [draw(body, i, [standing(0.0, arms=0.7 + 0.1 * i)]) for i in range(4)]
    _, quality = read(prepare(turned, save(turned, tmp_path / "turned"), tmp_path / "a"))
    assert quality["surface_seen"] > 0.85 and not any("no image shows" in text for text in quality["warnings"])
    _, quality = read(prepare(front, save(front, tmp_path / "front"), tmp_path / "b"))
    (finding,) = (text for text in quality["warnings"] if "no image shows" in text)
    assert "the back," in finding and "the back of the head" in finding and "the chest" not in finding
    assert 0.3 < quality["surface_seen"] < 0.65


def test_a_person_who_does_not_turn_is_told_so(tmp_path, body):
    frames = [draw(body, i, [standing(0.1 * i, arms=0.2 * i)]) for i in range(4)]
    _, quality = read(prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out"))
    assert any("turn once around" in warning for warning in quality["warnings"])


def test_gravity_becomes_the_up_axis(tmp_path, body):
    """A camera that looks down: the world is turned, and bodies with it."""
    frames = turning(body, 4)
    tilt = 0.35
    up = torch.tensor([0.0, -np.cos(tilt), -np.sin(tilt)], dtype=torch.float32)

    def fit(*args):
        return replace(TrueFit(frames)(*args), up=up.expand(4, 3))

    out = prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out", fit=fit)
    capture, _ = read(out)
    T = np.array(capture["cameras"]["camera"]["T_cam_world"])
    # The up axis of the file, -y, is the fit's up vector in the camera.
    np.testing.assert_allclose(T[:3, :3] @ [0, -1, 0], up, atol=1e-6)
    drawn = silhouettes(stored_bodies(out, capture), body, stored_cameras(capture))
    for row, frame in zip(drawn, capture["frames"]):
        assert mask_iou(row[0], np.asarray(Image.open(out / frame["masks"]["camera"]))) > 0.93


@pytest.mark.slow
def test_masks_and_keypoints_by_other_tools_need_no_network(tmp_path, body):
    frames = turning(body, 4)
    photos = save(frames, tmp_path / "photos")
    coco = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
    for number, frame in enumerate(frames, start=1):
        person = frame.people[0]
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(person.mask > 0.5).save(tmp_path / "masks" / f"{number:04d}.png")
        points, visibility = person.landmarks.points[coco] - 0.5, person.landmarks.visibility[coco]
        keypoints = {"keypoints": points.tolist(), "keypoint_scores": visibility.tolist()}
        (tmp_path / "keypoints").mkdir(exist_ok=True)
        (tmp_path / "keypoints" / f"{number:04d}.json").write_text(json.dumps([keypoints]))
    options = replace(OPTIONS, masks=tmp_path / "masks", keypoints=tmp_path / "keypoints")
    fit = TrueFit(frames)
    out = prepare_capture(photos, tmp_path / "out", options, reader=NoReader(), fit=fit)
    capture, _ = read(out)
    assert len(capture["frames"]) == 4 and fit.calls[0][0].world_landmarks is None
    for frame in capture["frames"]:
        mask = np.asarray(Image.open(out / frame["masks"]["camera"]))
        np.testing.assert_array_equal(mask > 127, frames[frame["id"] - 1].people[0].mask > 0.5)


class NoReader:
    def people(self, image, *, most=4, details=True):
        return []

    def follow(self, image, previous, *, details=False):
        return None


def test_an_estimator_starts_the_fit(tmp_path, body):
    frames = turning(body, 4)
    poses = np.stack([torch.cat([f.params[0].global_orient, f.params[0].body_pose]).numpy() for f in frames])
    np.savez(tmp_path / "poses.npz", poses=poses)
    fit = TrueFit(frames)
    options = replace(OPTIONS, fits=tmp_path / "poses.npz")
    prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out", options, fit=fit)
    initial = fit.calls[0][2]
    expected = torch.stack([frame.params[0].transl for frame in frames])
    torch.testing.assert_close(initial.transl, expected, atol=0.03, rtol=0)


@pytest.mark.slow
def test_real_fits_of_drawn_people(tmp_path, body):
    """With the true focal length the fitted bodies stand where they were drawn."""
    from smpl_renderer.fitting import fit_bodies

    frames = turning(body, 4)
    out = prepare(frames, save(frames, tmp_path / "photos"), tmp_path / "out", fit=fit_bodies)
    capture, quality = read(out)
    assert all(frame["mask_iou"] > 0.8 for frame in quality["frames"])
    bodies = stored_bodies(out, capture)
    T = np.array(capture["cameras"]["camera"]["T_cam_world"])
    depth = (bodies.transl.numpy() @ T[:3, :3].T)[:, 2]
    np.testing.assert_allclose(depth, 3.4, atol=0.25)
