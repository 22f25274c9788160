"""Images and videos as they come from phones and cameras."""

import io

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from core.capture.hdr import to_sdr
from core.capture.sources import is_capture_input, natural_order, open_input
from core.capture.stills import FILM_DIAGONAL, StillSource, read_upright, upright_size_and_focal
from core.capture.video import VideoSource
from smpl_renderer.errors import InputError


def gradient(width=60, height=40):
    ys, xs = np.mgrid[:height, :width]
    return np.stack([xs * 4, ys * 6, xs * 0], -1).clip(0, 255).astype(np.uint8)


def save_with_exif(path, pixels, orientation=1, film=None, length=None, resolution=None):
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if film:
        details[ExifTags.Base.FocalLengthIn35mmFilm] = film
    if length:
        details[ExifTags.Base.FocalLength] = length
        details[ExifTags.Base.FocalPlaneXResolution] = resolution
        details[ExifTags.Base.FocalPlaneResolutionUnit] = 4  # pixels per millimetre
        details[ExifTags.Base.ExifImageWidth] = pixels.shape[1]
    image.save(path, exif=exif, quality=98)
    return path


@pytest.mark.parametrize("orientation, turns", [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_orientation_of_photographs(tmp_path, orientation, turns):
    upright = gradient()
    stored = np.rot90(upright, -turns)
    path = save_with_exif(tmp_path / "a.jpg", np.ascontiguousarray(stored), orientation)
    assert np.abs(read_upright(path).astype(int) - upright).mean() < 3
    source = StillSource([path], "camera")
    assert (source.width, source.height) == (60, 40)


def test_focal_length_in_35_mm_film(tmp_path):
    path = save_with_exif(tmp_path / "a.jpg", gradient(400, 300), film=26)
    # On the diagonal: 26 mm of 43.27 mm, of 500 pixels.
    assert StillSource([path], "camera").focal == pytest.approx(26 / FILM_DIAGONAL * 500)


def test_focal_length_by_the_sensor(tmp_path):
    path = save_with_exif(tmp_path / "a.jpg", gradient(400, 300), length=5.0, resolution=100.0)
    assert StillSource([path], "camera").focal == pytest.approx(500)


def test_images_of_different_zoom_share_one_camera(tmp_path):
    """The second image was taken at twice the focal length: it is shown at half the size on the common canvas."""
    wide = save_with_exif(tmp_path / "a.jpg", np.full((300, 400, 3), 200, np.uint8), film=30)
    also_wide = save_with_exif(tmp_path / "b.jpg", np.full((300, 400, 3), 200, np.uint8), film=30)
    tele_pixels = np.full((300, 400, 3), 200, np.uint8)
    tele_pixels[100:200, 150:250] = 0
    tele = save_with_exif(tmp_path / "c.jpg", tele_pixels, film=60)
    source = StillSource([wide, also_wide, tele], "camera")
    assert source.focal == pytest.approx(30 / FILM_DIAGONAL * 500)
    image = source.read([2], 400)[2]
    assert image.shape == (300, 400, 3)
    dark = image[..., 0] < 100
    assert dark.any(0).sum() == pytest.approx(50, abs=2) and dark.any(1).sum() == pytest.approx(50, abs=2)
    assert np.nonzero(dark.any(0))[0].mean() == pytest.approx(199.5, abs=1)


def test_portrait_and_landscape_share_one_camera(tmp_path):
    a = save_with_exif(tmp_path / "a.jpg", gradient(60, 40))
    b = save_with_exif(tmp_path / "b.jpg", gradient(40, 60))
    source = StillSource([a, b], "camera")
    assert (source.width, source.height) == (60, 60)
    assert {image.shape for image in source.read([0, 1], 60).values()} == {(60, 60, 3)}


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_upright(tmp_path / "a.png") == 255).all()


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(tmp_path / "a.png")
    assert (read_upright(tmp_path / "a.png") == 128).all()


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.jpg"):
        open_input(tmp_path / "a.jpg")


def test_an_image_that_ends_early_is_named(tmp_path):
    """Already by its header: Pillow decodes a PNG file for its EXIF data."""
    content = io.BytesIO()
    Image.effect_noise((64, 96), 50).save(content, "PNG")
    (tmp_path / "short.png").write_bytes(content.getvalue()[:2000])
    for read in (upright_size_and_focal, read_upright):
        with pytest.raises(InputError, match=r"short\.png: cannot be read as an image"):
            read(tmp_path / "short.png")


def test_strips_are_no_images_of_a_person(tmp_path):
    Image.new("L", (330, 10)).save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png: 330 x 10 pixels are too long a strip"):
        read_upright(tmp_path / "strip.png")


def test_natural_order(tmp_path):
    names = ["img10.jpg", "img2.jpg", "b.jpg", "img1.jpg"]
    assert [p.name for p in sorted((tmp_path / n for n in names), key=natural_order)] == [
        *("b.jpg", "img1.jpg", "img2.jpg", "img10.jpg")
    ]


def write_video(path, times, codec="mpeg4", pix_fmt="yuv420p", trc=None, value=lambda i: 40 + 10 * i):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=100)
        stream.width, stream.height, stream.pix_fmt = 64, 96, pix_fmt
        stream.bit_rate = 2_000_000
        if trc is not None:
            stream.codec_context.color_trc = trc
            stream.codec_context.color_primaries = stream.codec_context.colorspace = 9  # BT.2020
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64, 3), value(index), np.uint8), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = round(time * 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_of_a_variable_rate_are_found_by_time(tmp_path):
    times = [0.0, 0.1, 0.15, 0.6, 0.65, 1.5, 1.6, 2.0]
    source = VideoSource(write_video(tmp_path / "a.mp4", times))
    candidates = list(source.candidates(100, 96))
    assert [c.time for c in candidates] == pytest.approx(times, abs=0.011)
    chosen = [candidates[1].key, candidates[5].key]
    images = source.read(chosen, 48)
    assert {image.shape for image in images.values()} == {(48, 32, 3)}
    # The frame is the right one: its grey value counts up.
    assert [images[key].mean() for key in chosen] == pytest.approx([50, 90], abs=4)
    assert source.nearest([0.62, 1.9]) == [candidates[3].key, candidates[7].key]


def test_candidates_are_spread_over_the_time(tmp_path):
    source = VideoSource(write_video(tmp_path / "a.mp4", [i / 20 for i in range(60)], value=lambda i: 100))
    times = [c.time for c in source.candidates(10, 96)]
    assert 9 <= len(times) <= 12 and np.ptp(np.diff(times)) < 0.11


def test_hdr_is_recognised_by_its_transfer_function(tmp_path):
    """Two videos of the same values, one of them marked as HLG."""
    images = []
    for trc in (18, None):
        video = write_video(tmp_path / f"{trc}.mp4", [0, 0.1], trc=trc, value=lambda i: 200)
        images.append(next(VideoSource(video).candidates(1, 96)).image)
    hdr, sdr = images
    assert sdr.mean() == pytest.approx(200, abs=3)
    assert abs(hdr.mean() - sdr.mean()) > 8  # HLG's curve is not sRGB's


def test_diffuse_white_of_both_curves_is_nearly_white():
    # BT.2408: 203 cd/m^2 is at 0.75 in HLG and at 0.58 in PQ.
    for signal, curve in ((0.75, "hlg"), (0.5807, "pq")):
        white = to_sdr(np.full((1, 1, 3), signal), curve)
        assert 225 < white.min() == white.max() < 252
        assert to_sdr(np.full((1, 1, 3), 1.0), curve).min() > white.max()
        assert to_sdr(np.zeros((1, 1, 3)), curve).max() == 0


def test_what_an_input_is(tmp_path):
    for name in (
        "one/a.jpg",
        "rig/cam1/a.jpg",
        "rig/cam2/a.jpg",
        "nested/images/cam1/a.jpg",
        "subject/images_lr/c/a.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient()).save(path)
    (tmp_path / "one" / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "capture.json").write_text("{}")
    expected = {"one": True, "rig": True, "nested": True, "subject": False, "done": False, "one/a.jpg": True}
    assert {name: is_capture_input(tmp_path / name) for name in expected} == expected
    assert not is_capture_input(tmp_path / "nothing") and not is_capture_input(tmp_path / "subject" / "images_lr" / "x")
    assert [source.name for source in open_input(tmp_path / "rig").sources] == ["cam1", "cam2"]
    assert len(open_input(tmp_path / "one").sources) == 1
    flat = open_input(tmp_path / "one", one_frame=True)
    assert flat.one_frame and flat.sources[0].name == "a"
    with pytest.raises(InputError, match="no such file"):
        open_input(tmp_path / "nothing")


def test_formats_that_need_programs_are_not_decoded(tmp_path):
    """Pillow reads EPS with Ghostscript, whatever the name of the file."""
    path = tmp_path / "a.jpg"
    Image.fromarray(gradient()).save(path, format="EPS")
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read as an image"):
        read_upright(path)


@pytest.mark.parametrize(
    "header", ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_playlists_are_no_videos(tmp_path, header):
    """FFmpeg would open what they name."""
    with av.open(str(tmp_path / "other.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gradient(64, 48))))
        container.mux(stream.encode())
    VideoSource(tmp_path / "other.ts")
    (tmp_path / "list.mp4").write_text(header.format("other.ts"))
    with pytest.raises(InputError, match=r"list\.mp4: cannot be read as a video"):
        VideoSource(tmp_path / "list.mp4")


def test_devices_and_bombs_are_no_images(tmp_path):
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    for read, name in ((read_upright, "zero.jpg"), (VideoSource, "zero.mp4"), (read_upright, "bomb.png")):
        with pytest.raises(InputError, match=r"no regular file|12000 x 12000 pixels are too many"):
            read(tmp_path / name)
