"""Videos decode to the frames that were written: number, size, colours."""

from pathlib import Path

import av
import pytest
import torch

from core.utils import video
from core.utils.video import write_alpha_video, write_video
from smpl_renderer.errors import InputError


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [torch.from_numpy(f.to_ndarray(format="rgb24")).float() / 255 for f in container.decode(stream)]
        return torch.stack(frames), stream.average_rate, stream.codec_context


def ramp(height, width, count):
    """Uniform grey frames, from dark to bright."""
    return (torch.full((3, height, width), (i + 1) / (count + 1)) for i in range(count))


@pytest.mark.parametrize("encoder", video.ENCODERS)
def test_decoded_frames_equal_the_written_ones(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(video, "ENCODERS", (encoder,))
    path = tmp_path / "a.mp4"
    assert write_video(path, ramp(64, 48, 7), fps=12) == 7
    frames, rate, context = decode(path)
    assert frames.shape == (7, 64, 48, 3)
    assert rate == 12 and context.pix_fmt == "yuv420p"
    expected = torch.arange(1, 8) / 8
    # Lossy coding of uniform images, in the studio range of 219 levels.
    torch.testing.assert_close(frames.mean((1, 2, 3)), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("encoder", video.ENCODERS)
def test_colours_are_bt709_and_tagged(tmp_path, monkeypatch, encoder):
    """The planes hold BT.709 in limited range (ITU-R BT.709-6, Sec. 3 and 4), and the file says so."""
    monkeypatch.setattr(video, "ENCODERS", (encoder,))
    colors = torch.tensor([[40, 170, 90], [200, 30, 60], [20, 60, 220], [255, 255, 255]]) / 255
    write_video(tmp_path / "a.mp4", (color.view(3, 1, 1).expand(3, 64, 64) for color in colors))
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        planes = [torch.from_numpy(frame.to_ndarray()) for frame in container.decode(video=0)]
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    for plane, (r, g, b) in zip(planes, colors.tolist(), strict=True):
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        expected = [16 + 219 * y, 128 + 224 * (b - y) / 1.8556, 128 + 224 * (r - y) / 1.5748]
        decoded = [plane[:64].float().mean(), plane[64:80].float().mean(), plane[80:].float().mean()]
        assert [x.item() for x in decoded] == pytest.approx(expected, abs=2)  # BT.601 differs by 5 to 12


def test_any_path_is_written(tmp_path, monkeypatch):
    """A relative path with a colon is no protocol of FFmpeg."""
    monkeypatch.chdir(tmp_path)
    path = Path("a:b\n c") / "é %d.mp4"
    write_video(path, ramp(32, 32, 2))
    assert decode(path.absolute())[0].shape[0] == 2


def test_odd_sizes_are_padded(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(33, 31, 2))
    assert decode(tmp_path / "a.mp4")[0].shape == (2, 34, 32, 3)


def test_failures_leave_no_file(tmp_path):
    def breaking():
        yield from ramp(32, 32, 2)
        raise RuntimeError("the renderer failed")

    with pytest.raises(RuntimeError, match="the renderer failed"):
        write_video(tmp_path / "a.mp4", breaking())
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "b.mp4", [])
    with pytest.raises(ValueError, match="frame 1 is 64 x 32, expected 32 x 32"):
        write_video(tmp_path / "c.mp4", [*ramp(32, 32, 1), *ramp(32, 64, 1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(video.ALPHA_ENCODER not in av.codecs_available, reason="PyAV without VP9")
def test_a_webm_keeps_alpha_and_straight_colours(tmp_path):
    """Half of the image is a half-transparent red, composed on white as the renderer returns it."""
    alpha = torch.zeros(1, 65, 48)
    alpha[:, :32], alpha[:, 32:48] = 0.5, 1.0
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    composed = alpha * red + 1 - alpha
    path = tmp_path / "a.webm"
    assert write_alpha_video(path, [(composed, alpha)] * 3, fps=10) == 3
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 10
        decoder = av.CodecContext.create(video.ALPHA_ENCODER, "r")  # FFmpeg's own decoder drops alpha
        frames = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
    assert len(frames) == 3 and frames[0].format.name == "yuva420p"
    pixels = torch.from_numpy(frames[0].to_ndarray(format="rgba")).float() / 255
    assert pixels.shape == (66, 48, 4)  # sizes are even; the added row is transparent
    # Lossy; and half a level of alpha doubles in the straight colour.
    torch.testing.assert_close(pixels[4:28, 4:44, 3].mean(), torch.tensor(0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(pixels[4:28, 4:44, :3].mean((0, 1)), red[:, 0, 0], atol=0.05, rtol=0)
    assert pixels[34:46, :, 3].min() > 0.95 and pixels[54:, :, 3].max() < 0.05


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "ALPHA_ENCODER", "no-such-encoder")
    with pytest.raises(InputError, match="no-such-encoder"):
        write_alpha_video(tmp_path / "a.webm", [(torch.ones(3, 16, 16), torch.ones(1, 16, 16))])
