"""Networks that draw nothing, or one colour: the numbers that tell it, and who is told what, and how often."""

import csv
import logging
import math
from dataclasses import replace

import pytest
import torch

from core.model import decode
from core.options import TrainOptions
from core.training.collapse import SIGNS, WINDOW, CollapseIndicator, coverage_and_contrast
from core.training.logs import COLUMNS, RunLog, read_rows
from core.training.trainer import Trainer

WELL = 0.6
FLAT = next(sign for sign in SIGNS if sign.column == "contrast")


def pictures(size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Two persons, two frames, three views, random colours on white; the upper half is the person, its edge is soft."""
    masks = torch.zeros(2, 2, 3, 1, size, size)
    masks[..., : size // 2, :] = 1
    masks[..., size // 2, :] = 0.5
    tones = torch.rand(2, 2, 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    return tones * masks + 1 - masks, masks


def measure(colors, alphas, photographs, masks) -> tuple[float, float]:
    numbers = coverage_and_contrast(colors, alphas, photographs, masks)
    return numbers["coverage"].item(), numbers["contrast"].item()


def test_a_perfect_rendering_covers_and_has_all_contrast():
    photographs, masks = pictures()
    coverage, contrast = measure(photographs, masks, photographs, masks)
    assert contrast == 1
    assert coverage == pytest.approx((8 + 0.25) / (8 + 0.5))  # by rows; the soft one covers half of its half


def test_an_empty_rendering_covers_nothing_and_has_no_contrast():
    photographs, masks = pictures()
    alphas = torch.full_like(masks, 1e-4)
    colors = 0.3 * alphas + 1 - alphas
    coverage, contrast = measure(colors, alphas, photographs, masks)
    assert coverage == pytest.approx(1e-4) and contrast < 0.01
    outside = 1 - masks.ceil()  # the person is drawn where nobody is
    assert measure(photographs, outside, photographs, masks)[0] == 0


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (0.2, 0.5, 0.1)])
def test_one_colour_has_no_contrast_though_its_edges_are_soft(tone):
    photographs, masks = pictures()
    colors = torch.tensor(tone)[:, None, None] * masks + 1 - masks
    coverage, contrast = measure(colors, masks, photographs, masks)
    assert coverage > 0.9 and contrast < 0.01


def test_contrast_is_relative_to_the_photographs():
    photographs, masks = pictures()
    faint = 0.5 + 0.2 * (photographs - 0.5)
    ones = torch.ones_like(masks)
    assert measure(faint, ones, photographs, ones)[1] == pytest.approx(0.2, abs=0.01)
    plain = torch.full_like(photographs, 0.4)  # clothes of one colour, drawn as they are
    assert measure(plain, ones, plain, ones) == (1, 1)


def test_every_person_counts_the_same():
    """So it does not matter how the persons of a step are shared out."""
    photographs, masks = pictures()
    masks[1, :, :, :, 2:] = 0
    alphas = torch.rand(masks.shape, generator=torch.Generator().manual_seed(1))
    whole = measure(0.5 * photographs, alphas, photographs, masks)
    parts = [measure(*(x[[i]] for x in (0.5 * photographs, alphas, photographs, masks))) for i in range(2)]
    assert whole == pytest.approx([sum(part) / 2 for part in zip(*parts)], rel=1e-5)
    assert measure(photographs, alphas, photographs, 0 * masks)[0] == 1  # nobody there: nothing to cover


def test_large_pictures_are_sampled():
    photographs, masks = pictures(256)
    coverage, contrast = measure(photographs, masks, photographs, masks)
    assert coverage == pytest.approx(1, abs=0.02) and contrast == 1


def series(coverage: list[float], contrast: list[float] | float = WELL) -> list[dict[str, float]]:
    """A row for every step."""
    contrast = contrast if isinstance(contrast, list) else [contrast] * len(coverage)
    return [{"step": i, "coverage": a, "contrast": b} for i, (a, b) in enumerate(zip(coverage, contrast), 1)]


@pytest.fixture
def said(tmp_path, caplog):
    """What a watch says of a series whose log lines come every so many steps."""
    caplog.set_level(logging.INFO)

    def run(rows: list[dict[str, float]], every: int = WINDOW) -> list[tuple[str, str]]:
        watch = CollapseIndicator(TrainOptions(workspace=tmp_path))
        for i in range(0, len(rows), every):
            watch.look(rows[i : i + every])
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return run


def test_a_run_that_draws_nothing_is_told_once_with_the_remedy(said, tmp_path):
    for step in (40, 60, 80):
        (tmp_path / f"state_{step:08d}.pt").touch()
    ((level, message),) = said(series([WELL] * 60 + [0.01] * 200))
    assert level == "WARNING" and "since step 61" in message and "cover 1.0%" in message
    assert "state_00000060.pt" in message and "state_00000080.pt" not in message  # the last one before
    remedies = [
        message.index(word) for word in ("--lr", "--warmup", "--loss.surface-distance", "--resume", "masks of the data")
    ]
    assert remedies == sorted(remedies)


def test_without_an_earlier_run_state_the_remedy_is_to_begin_anew(said):
    ((_, message),) = said(series([0.0] * 30))
    assert "since step 1," in message and "begin anew" in message and "--resume" not in message


def test_recovery_is_told_and_a_second_collapse_too(said):
    told = said(series([WELL] * 20 + [0.0] * 20 + [WELL] * 20 + [0.0] * 20))
    assert [level for level, _ in told] == ["WARNING", "INFO", "WARNING"]
    assert "collapsed since step 21, has recovered by step 50" in told[1][1] and "since step 61" in told[2][1]


def test_noise_is_no_collapse_and_makes_no_episodes(said, caplog):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(400, generator=generator).tolist()
    assert said(series(noise, noise)) == []  # single steps may be low
    about_the_limit = [0.03 + 0.04 * x for x in noise]
    assert len(said(series(about_the_limit))) == 1


def test_a_flat_run_is_told_after_several_windows(said, caplog):
    pause = [0.01] * WINDOW * (FLAT.windows - 1)
    assert said(series([1.0] * 60, [WELL] * 20 + pause + [WELL] * 20)) == []
    ((_, message),) = said(series([1.0] * 100, [WELL] * 20 + [0.01] * 80))
    assert "since step 21" in message and "1.0% as much" in message


def test_a_network_that_begins_flat_has_time_to_learn_colours(said):
    steps = FLAT.warm_up - WINDOW
    assert said(series([1.0] * 2 * steps, [0.01] * steps + [WELL] * steps)) == []
    ((_, message),) = said(series([1.0] * 2 * FLAT.warm_up, 0.01))
    assert "since step 1," in message


def test_an_empty_run_that_is_flat_too_is_one_episode(said):
    told = said(series([WELL] * 300 + [0.0] * 100 + [WELL] * 100, [WELL] * 300 + [0.01] * 150 + [WELL] * 50))
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert "recovered by step 460" in told[1][1]  # not before its colours have


@pytest.mark.parametrize("every", [1, 3, 50])
def test_log_lines_of_any_length_will_do(said, every):
    told = said(series([WELL] * 150 + [0.0] * 150), every)
    assert len(told) == 1


def test_skipped_steps_do_not_count(said):
    assert said(series([WELL] * 20 + [math.nan] * 40 + [math.inf] * 20, [math.nan] * 80)) == []
    assert len(said(series([WELL] * 20 + [0.0, math.nan] * 20))) == 1


@pytest.mark.parametrize("opacity_logit, warnings", [(2.0, 0), (-20.0, 1)])
@pytest.mark.slow
def test_a_run_warns_once_if_its_head_is_transparent(options, monkeypatch, caplog, opacity_logit, warnings):
    monkeypatch.setattr(decode, "OPACITY_LOGIT", opacity_logit)
    options = replace(options, steps=3 * WINDOW, log_every=WINDOW, save_every=100, validation=0)
    # The second look would raise opacities to the 0.001 at which it takes their logits.
    Trainer(replace(options, model=replace(options.model, color_sampling=opacity_logit > 0))).run()
    told = [record.getMessage() for record in caplog.records if "has collapsed" in record.getMessage()]
    assert len(told) == warnings
    rows = read_rows(options.workspace / "log.csv")
    assert len(rows) == options.steps  # training went on
    assert all((row["coverage"] < 0.01) if warnings else (row["coverage"] > 0.3) for row in rows)
    assert all(0 <= row["contrast"] <= 1 for row in rows)


def test_a_log_of_fewer_columns_goes_on_with_more(tmp_path):
    """That of a run which an earlier version began."""
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
