"""scripts/showcase.py: input images and a moving avatar in one animated picture."""

import numpy as np
import pytest
from PIL import Image

from core.avatar.file import save_avatar
from scripts.showcase import main
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

CAPTURE = REPOSITORY / "test_dataset" / "209903"


def test_inputs_stay_and_the_avatar_moves(plain, tmp_path):
    (tmp_path / "209903").mkdir()
    save_avatar(tmp_path / "209903" / "avatar.safetensors", plain[0])
    out = tmp_path / "a.webp"
    main((CAPTURE,), tmp_path, out, "wave", size=64, fps=2, turns=0)
    frames = []
    with Image.open(out) as image:
        assert image.size == (128, 64) and image.n_frames > 2
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB"), float))
    left, right = np.split(np.stack(frames), 2, axis=2)
    for half in (left, right):
        assert (half[0] < 200).any() and half[0].max() == 255
    assert np.abs(left - left[0]).mean() < 1 < np.abs(right - right[0]).mean()  # up to compression


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="webp"):
        main((CAPTURE,), tmp_path, tmp_path / "a.gif")
    with pytest.raises(InputError, match="no capture"):
        main((), tmp_path, tmp_path / "a.webp")
    with pytest.raises(InputError, match=r"avatar\.safetensors"):
        main((CAPTURE,), tmp_path, tmp_path / "a.webp")
