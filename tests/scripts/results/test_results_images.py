"""Learning curves and images for the README."""

import importlib.util

import pytest
import torch

from smpl_renderer.errors import InputError


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_curves(tmp_path):
    from PIL import Image

    from scripts.results.curves import POINTS, write_curves

    runs = []
    for name, steps in (("short", 30), ("long", 1500)):
        folder = tmp_path / name
        folder.mkdir()
        rows = "".join(f"{i},{1 / i},{20 + i / steps}\n" for i in range(1, steps + 1))
        (folder / "log.csv").write_text("step,loss,psnr\n" + rows)
        (folder / "scores.csv").write_text(f"step,novel_view,novel_pose\n0,15.0,15.5\n{steps},25.0,24.5\n")
        runs.append(folder)
    write_curves(tuple(runs), tmp_path / "curves")
    lines = (tmp_path / "curves" / "curves.csv").read_text().splitlines()
    assert lines[0] == "run,step,loss,psnr,novel_view,novel_pose"
    long = [line.split(",") for line in lines if line.startswith("long")]
    assert len(long) <= POINTS + 2 and long[0][1:] == ["0", "", "", "15.000", "15.500"]
    assert float(long[1][2]) == pytest.approx(sum(1 / i for i in range(1, 9)) / 8, rel=1e-4)  # 8 steps per point
    png = tmp_path / "curves" / "curves.png"
    assert png.stat().st_size < 100_000
    with Image.open(png) as image:
        assert image.width > image.height > 200
    (runs[0] / "scores.csv").unlink()  # as in a training without held-out people
    write_curves(tuple(runs[:1]), tmp_path / "curves")
    assert len((tmp_path / "curves" / "curves.csv").read_text().splitlines()) == 31
    with pytest.raises(InputError, match=r"log\.csv"):
        write_curves((tmp_path,), tmp_path / "curves")


def test_curves_without_matplotlib(tmp_path, monkeypatch):
    from scripts.results import curves

    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        curves.write_curves((tmp_path,), tmp_path / "curves")


@pytest.mark.slow
def test_sheet_and_turntable(options, tmp_path, monkeypatch):
    from PIL import Image

    from scripts.results import images

    monkeypatch.setattr(images, "TILE", 40)
    monkeypatch.setattr(images, "TURNTABLE_SIZE", 24)
    monkeypatch.setattr(images, "TURNTABLE_FRAMES", 4)
    images.write_images(options, tmp_path / "images")
    with Image.open(tmp_path / "images" / "people.png") as sheet:
        assert sheet.width > 8 * 40 and 2 * 40 < sheet.height < 4 * 40
    with Image.open(tmp_path / "images" / "turntable.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (4, (48, 24), 0)


def test_gifs_are_limited_in_size(tmp_path):
    from scripts.results.images import save_gif

    noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    save_gif(tmp_path / "a.gif", noise)
    full = (tmp_path / "a.gif").stat().st_size
    save_gif(tmp_path / "b.gif", noise, max_bytes=full - 1)
    assert (tmp_path / "b.gif").stat().st_size < full
    before = (tmp_path / "a.gif").read_bytes()
    with pytest.raises(InputError, match="more than 100 bytes"):
        save_gif(tmp_path / "a.gif", noise, max_bytes=100)
    assert (tmp_path / "a.gif").read_bytes() == before
