"""scripts/results.py on a benchmark of four people: rows, resuming, failures, numbers that equal those of infer.py."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import infer
from core.data.types import Frames
from core.inference.options import InferenceOptions
from core.results import ablations
from core.results.bench import Bench, Shown, bind_one_frame
from core.results.data_id import data_id
from core.results.records import read_record
from core.results.rows import ROWS, choose_rows
from core.results.run import list_rows, measure_rows
from core.results.table import findings, read_records, results_page, short_table, write_excerpt
from smpl_renderer.errors import InputError

ROOT = Path(__file__).parents[2]
SPLITS = ("novel_view", "novel_pose")


def record(options, row: str) -> dict:
    return json.loads((options.out / f"{row}.json").read_text())


def test_numbers_are_those_of_infer(options, tmp_path, monkeypatch):
    """Ours and both kinds of paint, person by person, at the same size of pictures."""
    from core.inference import session

    full = replace(session.PROTOCOLS["paper"], image_size=48)
    monkeypatch.setitem(session.PROTOCOLS, "paper", full)  # of which infer's `full` is made
    captures = options.root / "test"
    infer.main(
        InferenceOptions(
            captures,
            checkpoint=options.checkpoint,
            workspace=tmp_path / "infer",
            evaluate=True,
            protocol="full",
            device="cpu",
            backend="torch",
            video_size=16,
            video_frames=2,
        )
    )
    theirs = json.loads((tmp_path / "infer" / "metrics.json").read_text())
    assert measure_rows(replace(options, rows=("ours", "mean-color", "vertex-color"))) == []
    for row, expected in (
        ("ours", theirs),
        ("mean-color", theirs["baselines"]["mean_color"]),
        ("vertex-color", theirs["baselines"]["vertex_color"]),
    ):
        metrics = record(options, row)["metrics"]
        assert metrics["subjects"].keys() == expected["subjects"].keys() == {"209900", "209901"}
        for split in SPLITS:
            pairs = [tuple(x["subjects"][name][split] for x in (metrics, expected)) for name in metrics["subjects"]]
            for a, b in [*pairs, (metrics["mean"][split], expected["mean"][split])]:
                assert a.pop("lpips_alex") is b.pop("lpips_alex") is None
                assert a == pytest.approx(b, rel=1e-6)  # the same operations on the same pictures


def test_ablations_differ_in_one_thing(options):
    bench = Bench(options)
    base = ablations.base_options(bench)
    assert base.model.graph.layers == 3 and not base.model.second_look and base.validation == 0
    assert (base.steps, base.seed, base.max_minutes) == (1, 0, None)
    changed = {}
    for row in ablations.ABLATIONS:
        own, full = (ablations.comparable(o) for o in (row.change(base), base))
        changed[row.name] = {key for part in ("model", None) for key in _differences(own, full, part)}
    assert changed == {
        "graph": set(),
        "no-intra": {"graph.intra"},
        "no-inter": {"graph.inter"},
        "layers-1": {"graph.layers"},
        "layers-6": {"graph.layers"},
        "residual-head": {"graph.head"},
        "second-look": {"second_look"},
        "one-frame": {"stage"},
    }


def _differences(a: dict, b: dict, part: str | None) -> list[str]:
    if part is None:
        return [key for key in a if key != "model" and a[key] != b[key]]
    graph = [f"graph.{key}" for key in a[part]["graph"] if a[part]["graph"][key] != b[part]["graph"][key]]
    return graph + [key for key in a[part] if key != "graph" and a[part][key] != b[part][key]]


@pytest.mark.slow
def test_all_rows_and_resuming(options, caplog):
    """Everything once; then nothing is measured again, and what was interrupted goes on."""
    assert measure_rows(options) == []
    records = read_records(options.out)
    assert list(records) == [row.name for row in ROWS]
    for name, own in records.items():
        assert own["row"] == name and own["commit"] == "abc" and own["device"] == "cpu"
        for split in SPLITS:
            assert own["metrics"]["mean"][split]["psnr"] > 5
        is_painted = name in ("mean-color", "vertex-color")
        assert (own["gaussians"] is None) == is_painted
        assert (own["avatar_ms"] is None) == (is_painted or name == "optimum")
        is_trained = name in {row.name for row in ablations.ABLATIONS}
        assert (own["train_minutes"] is not None) == is_trained
        assert own["steps"] == (None if is_painted else 1 if is_trained else 3)
    # The avatar has one Gaussian a vertex; those of a frame are one a pixel, and only on the person.
    assert records["graph"]["gaussians"] == 6890 and records["one-frame"]["gaussians"] < 4 * 16 * 16
    assert list(records["optimum"]["metrics"]["subjects"]) == ["209900"]
    page = options.out.with_suffix(".md").read_text()
    assert all(row.title in page for row in ROWS if row.group == "ablations")
    assert page == results_page(records)

    before = {path.name: path.stat().st_mtime_ns for path in options.out.iterdir()}
    assert measure_rows(options) == []
    assert {path.name: path.stat().st_mtime_ns for path in options.out.iterdir()} == before

    # A record that was lost: its training is there, and is not made again.
    (options.out / "no-inter.json").unlink()
    caplog.clear()
    assert measure_rows(replace(options, rows=("ablations",))) == []
    assert record(options, "no-inter")["metrics"] == records["no-inter"]["metrics"]
    assert record(options, "no-inter")["steps"] == 1


def test_other_settings_are_measured_anew(options):
    options = replace(options, rows=("mean-color",))
    assert measure_rows(options) == []
    first = record(options, "mean-color")
    assert measure_rows(replace(options, image_size=40)) == []
    second = record(options, "mean-color")
    assert first["settings"]["image_size"] == 48 and second["settings"]["image_size"] == 40
    assert first["metrics"] != second["metrics"]


def test_a_row_that_fails_stops_no_other(options, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr("core.results.rows.optimise", fail)
    monkeypatch.setattr(ablations, "Trainer", fail)
    assert measure_rows(replace(options, rows=("optimum", "views-1", "graph"))) == ["optimum", "graph"]
    assert record(options, "views-1")["settings"]["shown"] == {"views": 1, "frames": 8}
    assert not (options.out / "optimum.json").exists()
    assert "optimum failed" in caplog.text and "no luck" in caplog.text


def test_a_missing_checkpoint_fails_its_rows_only(options, caplog):
    options = replace(options, checkpoint=Path("no_such.safetensors"), rows=("ours", "layers-1"))
    assert measure_rows(options) == ["ours"]
    assert "no_such.safetensors" in caplog.text and (options.out / "layers-1.json").is_file()


def test_a_broken_record_is_measured_again_when_it_is_deleted(options, caplog):
    options.out.mkdir()
    (options.out / "views-1.json").write_text("{")
    with pytest.raises(InputError, match=r"views-1\.json: not a JSON file"):
        read_record(options.out, "views-1")


def test_unknown_rows_and_presets_are_named(options):
    with pytest.raises(InputError, match=r"'headline'.*groups are model, inputs"):
        choose_rows(("headline",))
    with pytest.raises(InputError, match="'huge'"):
        ablations.ablation_size(replace(options, preset="huge"))
    assert [row.name for row in choose_rows(("optimum", "model"))] == ["ours", "ours-256", "optimum"]


def test_shown_views_and_frames_are_spread_and_begin_with_the_first(options):
    bench = Bench(options)
    inputs = bench.inputs(bench.headline)[0].unpack()
    assert inputs.cameras.batch_shape == (2, 4)
    assert Shown().of(inputs).images.equal(inputs.images)
    assert Shown(views=1).of(inputs).images.equal(inputs.images[:, :1])
    assert Shown(views=2, frames=1).of(inputs).images.equal(inputs.images[:1, [0, 2]])


@torch.no_grad()
def test_one_frames_gaussians_go_back_where_they_were(options):
    """Bound to the body and posed as in that frame they are what the U-Net saw."""
    from core.avatar import pose_avatar

    bench = Bench(options)
    session = bench.headline
    inputs = bench.inputs(session)[0].unpack()
    avatar = bind_one_frame(session, inputs)
    one = Frames.stack([inputs[:1]])
    seen = session.model.frame_gaussians(one)
    inside = seen.mask[0, 0] & (seen.distances[0, 0] < 0.3)  # what is too far away is pulled in
    assert inside.sum() > 50
    # The shape is the mean of one frame's: its own.
    posed = pose_avatar(avatar[None], session.body, one.body)[0, 0]
    own = seen.gaussians[0, 0]
    torch.testing.assert_close(posed.means[inside], own.means[inside], rtol=0, atol=2e-4)
    torch.testing.assert_close(posed.scales[inside], own.scales[inside])


@torch.no_grad()
def test_the_optimum_is_nearer_to_the_pictures(options):
    from core.results.optimum import optimise

    bench = Bench(options)
    session, targets = bench.headline, bench.people.targets(48)[:1]
    start = bench.avatars(session, Shown())[:1]
    best = optimise(start[0], session.body, targets[0], 12, backend="torch")
    before, after = (bench.measure_avatars(avatars, session, 48, bench.judge())["mean"] for avatars in (start, [best]))
    assert all(after[split]["psnr"] > before[split]["psnr"] + 0.5 for split in SPLITS)
    assert best.vertex_ids.equal(start[0].vertex_ids) and not best.offsets.requires_grad


def test_data_id_is_the_benchmarks_checksum_for_its_people_only(tmp_path, body):
    made = {"generator": "2", "options": {"seed": 7, "cameras": 16, "split": "test"}}
    config = {
        "generator": "2",
        "capture": {"seed": 7, "cameras": 16},
        "splits": {
            "train": {"first_subject": 209001, "subjects": 2, "checksum": "aaaaaaaabbbbbbbb"},
            "test": {"first_subject": 209421, "subjects": 1, "checksum": "ccccccccdddddddd"},
        },
    }
    (tmp_path / "benchmark.json").write_text(json.dumps(config))
    for name in ("train/209001", "train/209002", "test/209421"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "camera_extrinsics.json").write_text("{}")
        (folder / "body.json").write_text(json.dumps(made))
    where = tmp_path / "train", tmp_path / "test", tmp_path / "benchmark.json"
    assert data_id(*where) == "aaaaaaaa-cccccccc"
    seeds = dict(made, options=dict(made["options"], seed=8))
    (tmp_path / "test" / "209421" / "body.json").write_text(json.dumps(seeds))
    other = data_id(*where)
    assert len(other) == 16 and "-" not in other
    (tmp_path / "train" / "209002" / "camera_extrinsics.json").unlink()
    (tmp_path / "train" / "209002" / "body.json").unlink()
    assert data_id(*where) != other


def test_ready_crops_are_trained_on_where_there_are_any(options, tmp_path):
    bench = Bench(replace(options, root=tmp_path))
    assert bench.train == tmp_path / "train"
    (tmp_path / "crops" / "train").mkdir(parents=True)
    assert bench.train == tmp_path / "crops" / "train"
    assert Bench(replace(options, train=tmp_path / "mine")).train == tmp_path / "mine"


def made_up(row: str, view: float, pose: float, people=("a", "b")) -> dict:
    """A record of a row: PSNR as given, in the box 4 dB less, person b 1 dB above person a."""

    def scores(psnr: float) -> dict:
        return {"psnr": psnr, "psnr_box": psnr - 4, "ssim": 0.97, "lpips": 0.04, "lpips_alex": None}

    subjects = {
        name: {"novel_view": scores(view + i - 0.5), "novel_pose": scores(pose + i - 0.5)}
        for i, name in enumerate(people)
    }
    mean = {"novel_view": scores(view), "novel_pose": scores(pose)}
    return {
        "row": row,
        "settings": {"image_size": 512, "data": "d"},
        "metrics": {"mean": mean, "subjects": subjects},
        "commit": "abc",
        "data": "d",
        "date": "2026-11-25",
        "device": "cpu",
        "versions": {"torch": "2"},
        "steps": 10,
        "train_minutes": None,
        "gaussians": 27560.0,
        "avatar_ms": 12.34,
    }


def test_findings_follow_from_the_same_people():
    records = {
        "ours": made_up("ours", 31, 30),
        "views-1": made_up("views-1", 28, 27),
        "mean-color": made_up("mean-color", 21, 20),
        "optimum": made_up("optimum", 33.5, 32.5, people=("b",)),  # their mean is b's: 33, 32
        "graph": made_up("graph", 27, 26),
        "one-frame": made_up("one-frame", 23, 22),
    }
    records["optimum"]["metrics"]["mean"] = records["optimum"]["metrics"]["subjects"]["b"]
    found = {finding.what: finding for finding in findings(records)}
    values = {what: finding.value for what, finding in found.items()}
    assert values["novel view, PSNR"] == 31 and found["novel view, PSNR"].cells()[-1] == "yes"
    assert values["over the paper's baseline, novel pose (equal steps, no second look)"] == 4
    assert values["over the paper's baseline, novel pose (our model)"] is None  # not measured at that size
    assert values["1 input view x 8 frames, novel view"] == 28
    # Of person b: ours 30.5, painted 20.5, optimum 32.0.
    assert values["below the per-person optimum, novel pose (1 person)"] == pytest.approx(1.5)
    share = values["of the gap from painted mean colour to that optimum closed, in box, novel pose"]
    assert share == pytest.approx(100 * 10 / 11.5)


def test_page_without_and_with_rows(tmp_path):
    assert "| novel view, PSNR | - | ≥ 30 dB | - |" in results_page({})
    records = {"ours": made_up("ours", 31, 30), "graph": made_up("graph", 27, 26), "layers-1": made_up("l", 26, 25.5)}
    page = results_page(records)
    ours = "| ours, 4 x 8 | 31.00 | 27.00 | 0.970 | 0.040 | - | 30.00 | 26.00 | 0.970 | 0.040 | - | 27560 | 12.3 |"
    assert ours in page
    assert "| L = 1 | 26.00 | 22.00 | 0.970 | 0.040 | 25.50 | 21.50 | 0.970 | 0.040 | -0.50 | 27560 | 12.3 |" in page
    assert "cannot be compared" not in page
    records["graph"]["data"] = "other"
    assert "different data and cannot be compared" in results_page(records)

    for name, content in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    write_excerpt(readme, tmp_path)
    text = readme.read_text()
    assert text == f"before\n<!-- results -->\n{short_table(records)}<!-- /results -->\nafter\n" and "old" not in text
    write_excerpt(readme, tmp_path)
    assert readme.read_text() == text
    readme.write_text("nothing here")
    with pytest.raises(InputError, match="has no lines"):
        write_excerpt(readme, tmp_path)


def test_list_says_what_is_there(options):
    options.out.mkdir()
    (options.out / "ours.json").write_text(json.dumps(made_up("ours", 31, 30)))
    lines = list_rows(options).splitlines()
    assert len(lines) == len(ROWS)
    assert "2026-11-25, abc" in lines[0] and lines[1].split()[2] == "-"


@pytest.mark.slow
def test_two_processes_share_a_folder(options, tmp_path):
    """Each measures other rows; both are in the table, and a row that fails is exit status 1."""
    common = [sys.executable, ROOT / "scripts" / "results.py", "--root", options.root, "--out", options.out]
    common += ["--checkpoint", options.checkpoint, "--image-size", 32, "--device", "cpu", "--optimum-steps", 2]
    jobs = [
        subprocess.Popen(list(map(str, [*common, "--rows", *rows])), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rows in (("views-1", "mean-color"), ("optimum", "frames-1"))
    ]
    outputs = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert sorted(p.name for p in options.out.iterdir()) == [
        *("frames-1.json", "mean-color.json", "optimum.json", "views-1.json")
    ]
    failing = [*common, "--rows", "ours", "views-2", "--checkpoint", "no_such.safetensors"]
    result = subprocess.run(list(map(str, failing)), capture_output=True, text=True)
    assert result.returncode == 1 and "no_such.safetensors" in result.stderr
    assert "failed: ours, views-2" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_curves(tmp_path):
    from PIL import Image

    from core.results.curves import POINTS, write_curves

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
    assert float(long[1][2]) == pytest.approx(sum(1 / i for i in range(1, 9)) / 8, rel=1e-4)  # 8 steps a point
    png = tmp_path / "curves" / "curves.png"
    assert png.stat().st_size < 100_000
    with Image.open(png) as picture:
        assert picture.width > picture.height > 200
    with pytest.raises(InputError, match=r"log\.csv"):
        write_curves((tmp_path,), tmp_path / "curves")


def test_curves_without_matplotlib(tmp_path, monkeypatch):
    from core.results import curves

    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        curves.write_curves((tmp_path,), tmp_path / "curves")


def test_pictures(options, tmp_path, monkeypatch):
    from PIL import Image

    from core.results import pictures

    monkeypatch.setattr(pictures, "TILE", 40)
    monkeypatch.setattr(pictures, "TURN_SIZE", 24)
    monkeypatch.setattr(pictures, "TURN_FRAMES", 4)
    pictures.write_pictures(options, tmp_path / "images")
    with Image.open(tmp_path / "images" / "people.png") as sheet:
        assert sheet.width > 8 * 40 and 2 * 40 < sheet.height < 4 * 40
    with Image.open(tmp_path / "images" / "turntable.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (4, (48, 24), 0)


def test_a_gif_keeps_within_its_size(tmp_path):
    from core.results.pictures import save_gif

    noise = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    save_gif(tmp_path / "a.gif", noise)
    full = (tmp_path / "a.gif").stat().st_size
    save_gif(tmp_path / "b.gif", noise, max_bytes=full - 1)
    assert (tmp_path / "b.gif").stat().st_size < full
    with pytest.raises(InputError, match="more than 100 bytes"):
        save_gif(tmp_path / "c.gif", noise, max_bytes=100)
    assert not (tmp_path / "c.gif").exists()


def test_main_ends_with_status_1_when_a_row_failed(options, monkeypatch):
    spec = importlib.util.spec_from_file_location("results_script", ROOT / "scripts" / "results.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "measure_rows", lambda options: ["ours"])
    with pytest.raises(SystemExit) as left:
        script.main(options)
    assert left.value.code == 1
    monkeypatch.setattr(script, "measure_rows", lambda options: [])
    script.main(options)
