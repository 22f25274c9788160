"""Detection of collapsed renderings: the statistics, the warnings, and how often they are logged."""

import csv
import logging
import math
from dataclasses import replace

import pytest
import torch

from core.model import decode
from core.options import TrainOptions
from core.training.collapse import INDICATORS, WINDOW, CollapseMonitor, coverage_and_contrast
from core.training.logs import COLUMNS, RunLog, read_rows
from core.training.trainer import Trainer

HIGH = 0.6
CONTRAST = next(indicator for indicator in INDICATORS if indicator.column == "contrast")


def targets(size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Two subjects, two frames, three views, random colours on white; the mask is the upper half, with a soft edge."""
    masks = torch.zeros(2, 2, 3, 1, size, size)
    masks[..., : size // 2, :] = 1
    masks[..., size // 2, :] = 0.5
    tones = torch.rand(2, 2, 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    return tones * masks + 1 - masks, masks


def measure(colors, alphas, images, masks) -> tuple[float, float]:
    values = coverage_and_contrast(colors, alphas, images, masks)
    return values["coverage"].item(), values["contrast"].item()


def test_a_perfect_rendering_covers_and_has_all_contrast():
    images, masks = targets()
    coverage, contrast = measure(images, masks, images, masks)
    assert contrast == 1
    assert coverage == pytest.approx((8 + 0.25) / (8 + 0.5))  # in rows; the soft row has alpha 0.5


def test_an_empty_rendering_covers_nothing_and_has_no_contrast():
    images, masks = targets()
    alphas = torch.full_like(masks, 1e-4)
    colors = 0.3 * alphas + 1 - alphas
    coverage, contrast = measure(colors, alphas, images, masks)
    assert coverage == pytest.approx(1e-4) and contrast < 0.01
    outside = 1 - masks.ceil()  # rendered outside the mask only
    assert measure(images, outside, images, masks)[0] == 0


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (0.2, 0.5, 0.1)])
def test_one_colour_with_soft_edges_has_no_contrast(tone):
    images, masks = targets()
    colors = torch.tensor(tone)[:, None, None] * masks + 1 - masks
    coverage, contrast = measure(colors, masks, images, masks)
    assert coverage > 0.9 and contrast < 0.01


def test_contrast_is_relative_to_the_targets():
    images, masks = targets()
    faint = 0.5 + 0.2 * (images - 0.5)
    ones = torch.ones_like(masks)
    assert measure(faint, ones, images, ones)[1] == pytest.approx(0.2, abs=0.01)
    plain = torch.full_like(images, 0.4)  # clothes of one colour, rendered exactly
    assert measure(plain, ones, plain, ones) == (1, 1)


def test_every_subject_has_equal_weight():
    """Then the distribution of subjects over processes does not matter."""
    images, masks = targets()
    masks[1, :, :, :, 2:] = 0
    alphas = torch.rand(masks.shape, generator=torch.Generator().manual_seed(1))
    whole = measure(0.5 * images, alphas, images, masks)
    parts = [measure(*(x[[i]] for x in (0.5 * images, alphas, images, masks))) for i in range(2)]
    assert whole == pytest.approx([sum(part) / 2 for part in zip(*parts)], rel=1e-5)
    assert measure(images, alphas, images, 0 * masks)[0] == 1  # empty masks


def test_large_images_are_subsampled():
    images, masks = targets(256)
    coverage, contrast = measure(images, masks, images, masks)
    assert coverage == pytest.approx(1, abs=0.02) and contrast == 1


def series(coverage: list[float], contrast: list[float] | float = HIGH) -> list[dict[str, float]]:
    """One row per step."""
    contrast = contrast if isinstance(contrast, list) else [contrast] * len(coverage)
    return [{"step": i, "coverage": a, "contrast": b} for i, (a, b) in enumerate(zip(coverage, contrast), 1)]


@pytest.fixture
def logged(tmp_path, caplog):
    """Messages of a monitor that is updated every so many steps."""
    caplog.set_level(logging.INFO)

    def run(rows: list[dict[str, float]], every: int = WINDOW) -> list[tuple[str, str]]:
        monitor = CollapseMonitor(TrainOptions(workspace=tmp_path))
        for i in range(0, len(rows), every):
            monitor.update(rows[i : i + every])
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return run


def test_an_empty_rendering_is_reported_once_with_remedies(logged, tmp_path):
    for step in (40, 60, 80):
        (tmp_path / f"state_{step:08d}.pt").touch()
    ((level, message),) = logged(series([HIGH] * 60 + [0.01] * 200))
    assert level == "WARNING" and "since step 61" in message and "cover 1.0%" in message
    assert "state_00000060.pt" in message and "state_00000080.pt" not in message  # the last one before the collapse
    remedies = [
        message.index(word) for word in ("--lr", "--warmup", "--loss.surface-distance", "--resume", "masks of the data")
    ]
    assert remedies == sorted(remedies)


def test_without_an_earlier_run_state_the_remedy_is_a_new_run(logged):
    ((_, message),) = logged(series([0.0] * 30))
    assert "since step 1," in message and "start anew" in message and "--resume" not in message


def test_recovery_and_a_second_collapse_are_reported(logged):
    messages = logged(series([HIGH] * 20 + [0.0] * 20 + [HIGH] * 20 + [0.0] * 20))
    assert [level for level, _ in messages] == ["WARNING", "INFO", "WARNING"]
    assert "collapsed since step 21, has recovered by step 50" in messages[1][1] and "since step 61" in messages[2][1]


def test_noise_is_neither_a_collapse_nor_several(logged, caplog):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(400, generator=generator).tolist()
    assert logged(series(noise, noise)) == []  # single steps may be low
    near_threshold = [0.03 + 0.04 * x for x in noise]
    assert len(logged(series(near_threshold))) == 1


def test_one_flat_colour_is_reported_after_several_windows(logged, caplog):
    pause = [0.01] * WINDOW * (CONTRAST.windows - 1)
    assert logged(series([1.0] * 60, [HIGH] * 20 + pause + [HIGH] * 20)) == []
    ((_, message),) = logged(series([1.0] * 100, [HIGH] * 20 + [0.01] * 80))
    assert "since step 21" in message and "1.0% as much" in message


def test_low_contrast_is_accepted_during_warm_up(logged):
    steps = CONTRAST.warm_up - WINDOW
    assert logged(series([1.0] * 2 * steps, [0.01] * steps + [HIGH] * steps)) == []
    ((_, message),) = logged(series([1.0] * 2 * CONTRAST.warm_up, 0.01))
    assert "since step 1," in message


def test_low_coverage_and_contrast_are_one_episode(logged):
    messages = logged(series([HIGH] * 300 + [0.0] * 100 + [HIGH] * 100, [HIGH] * 300 + [0.01] * 150 + [HIGH] * 50))
    assert [level for level, _ in messages] == ["WARNING", "INFO"]
    assert "recovered by step 460" in messages[1][1]  # not before its contrast has


@pytest.mark.parametrize("every", [1, 3, 50])
def test_log_intervals_of_any_length(logged, every):
    messages = logged(series([HIGH] * 150 + [0.0] * 150), every)
    assert len(messages) == 1


def test_skipped_steps_do_not_count(logged):
    assert logged(series([HIGH] * 20 + [math.nan] * 40 + [math.inf] * 20, [math.nan] * 80)) == []
    assert len(logged(series([HIGH] * 20 + [0.0, math.nan] * 20))) == 1


@pytest.mark.parametrize("opacity_logit, warnings", [(2.0, 0), (-20.0, 1)])
@pytest.mark.slow
def test_a_run_with_a_transparent_head_warns_once(options, monkeypatch, caplog, opacity_logit, warnings):
    monkeypatch.setattr(decode, "OPACITY_LOGIT", opacity_logit)
    options = replace(options, steps=3 * WINDOW, log_every=WINDOW, save_every=100, validation=0)
    small = replace(options.data, input_frames=1, target_frames=1, target_views=1)
    # Image colour sampling would raise opacities to 0.001, where it clamps their logits.
    model = replace(options.model, color_sampling=opacity_logit > 0)
    Trainer(replace(options, data=small, model=model)).run()
    messages = [record.getMessage() for record in caplog.records if "has collapsed" in record.getMessage()]
    assert len(messages) == warnings
    rows = read_rows(options.workspace / "log.csv")
    assert len(rows) == options.steps  # training continued
    assert all((row["coverage"] < 0.01) if warnings else (row["coverage"] > 0.3) for row in rows)
    assert all(0 <= row["contrast"] <= 1 for row in rows)


def test_a_log_of_an_earlier_version_with_fewer_columns_is_continued(tmp_path):
    old = [name for name in COLUMNS if name not in ("coverage", "contrast")]
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([old, *([step, *[0.5] * (len(old) - 1)] for step in (1, 2, 3))])
    log = RunLog(tmp_path, resumed_step=2)
    for step in (3, 4):
        log.steps([dict.fromkeys(COLUMNS, 0.25) | {"step": step}])
    log.close()
    rows = read_rows(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(set(row) == set(COLUMNS) for row in rows)
    assert [row["grad_norm"] for row in rows] == [0.5, 0.5, 0.25, 0.25]
    assert [math.isnan(row["coverage"]) for row in rows] == [True, True, False, False]
