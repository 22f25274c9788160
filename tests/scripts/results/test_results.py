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
from core import options as core_options
from core.avatar.rendering import render_avatar
from core.checkpoint import load_checkpoint, save_checkpoint
from core.inference import session
from core.inference.options import InferenceOptions
from core.types.frames import Frames
from scripts.results import ablations, pictures
from scripts.results.bench import Bench, InputSubset, bind_one_frame
from scripts.results.data_id import data_id
from scripts.results.rows import ROWS, choose_rows
from scripts.results.run import measure_rows
from scripts.results.table import read_records, results_page
from smpl_renderer.errors import InputError

ROOT = Path(__file__).parents[3]
SPLITS = ("novel_view", "novel_pose")


def record(options, row: str) -> dict:
    return json.loads((options.out / f"{row}.json").read_text())


def test_numbers_are_those_of_infer(options, tmp_path, monkeypatch):
    """Ours and both kinds of paint, person by person, at the same size of pictures."""
    monkeypatch.setattr(session, "FULL", replace(session.FULL, image_size=48))
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
            refine=0,
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
    assert base.model.graph.layers == 3 and not base.model.color_sampling and base.validation == 0
    assert (base.steps, base.seed, base.max_minutes) == (1, 0, None)
    assert "feedback" not in ablations.comparable(base)["model"]  # as in records that are older than it
    no_inputs = replace(base, data=replace(base.data, target_input_views=0))
    assert ablations.comparable(no_inputs)["data"]["target_input_views"] == 0  # not the default, which is all
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
        "second-look": {"color_sampling"},
        "feedback": {"color_sampling", "feedback"},
        "one-frame": {"stage"},
    }


def _differences(a: dict, b: dict, part: str | None) -> list[str]:
    if part is None:
        return [key for key in a if key != "model" and a[key] != b[key]]
    graph = [f"graph.{key}" for key in a[part]["graph"] if a[part]["graph"][key] != b[part]["graph"][key]]
    return graph + [key for key in a[part] if key != "graph" and a[part][key] != b[part].get(key)]


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
        is_ours = not (is_painted or is_trained or name == "optimum")
        assert [t["steps"] for t in own["trainings"] or ()] == ([8, 3] if is_ours else [])
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


def test_rows_of_smaller_pictures_than_the_training_had_are_drawn_larger(options, body, tmp_path, monkeypatch):
    """Only they, and only their settings say so: other records stay."""
    path = tmp_path / "trained.safetensors"
    model, _ = load_checkpoint(options.checkpoint, body)
    save_checkpoint(path, model, step=3, training=json.dumps({"data": {"image_size": 48, "crop": "person"}}))
    options = replace(options, checkpoint=path, rows=("ours", "ours-256"))
    bench = Bench(options)
    named = {row.name: row.settings(bench).get("enlargement") for row in ROWS}
    assert {name: times for name, times in named.items() if times} == {"ours-256": 2}

    drawn = []

    def render(*arguments, supersample, **options):
        drawn.append((arguments[3].width, supersample))
        return render_avatar(*arguments, supersample=supersample, **options)

    monkeypatch.setattr(session, "render_avatar", render)
    assert measure_rows(options) == []
    assert set(drawn) == {(48, 1), (32, 2)}
    assert record(options, "ours-256")["settings"]["enlargement"] == 2

    drawn.clear()
    for name, value in (("TILE", 40), ("TURN_SIZE", 20), ("TURN_FRAMES", 2)):
        monkeypatch.setattr(pictures, name, value)
    pictures.write_pictures(options, tmp_path / "images")
    assert set(drawn) == {(40, 2), (20, 3)}


def test_a_row_that_fails_stops_no_other(options, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr("scripts.results.rows.optimise", fail)
    monkeypatch.setattr(ablations, "Trainer", fail)
    assert measure_rows(replace(options, rows=("optimum", "views-1", "graph"))) == ["optimum", "graph"]
    assert record(options, "views-1")["settings"]["shown"] == {"views": 1, "frames": 8}
    assert not (options.out / "optimum.json").exists()
    assert "optimum failed" in caplog.text and "no luck" in caplog.text


def test_a_missing_checkpoint_fails_its_rows_only(options, caplog):
    options = replace(options, checkpoint=Path("no_such.safetensors"), rows=("ours", "layers-1"))
    assert measure_rows(options) == ["ours"]
    assert "no_such.safetensors" in caplog.text and (options.out / "layers-1.json").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not a JSON file"), ("[]", "no record"), ('{"row": "views-1"}', "lacks commit, data,")],
)
def test_a_broken_record_is_named_before_anything_is_measured(options, content, message):
    options = replace(options, rows=("mean-color",))
    options.out.mkdir()
    (options.out / "views-1.json").write_text(content)
    with pytest.raises(InputError, match=rf"views-1\.json: {message}.*measured again"):
        measure_rows(options)
    assert not (options.out / "mean-color.json").exists()
    (options.out / "views-1.json").unlink()
    assert measure_rows(options) == []


@pytest.mark.parametrize("name", ["image_size", "ablation_steps", "optimum_people", "optimum_steps", "refine_steps"])
def test_counts_of_nothing_are_refused(options, name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must be at least 1, got 0"):
        measure_rows(replace(options, **{name: 0}))


def test_ablations_begin_from_nothing_whatever_the_preset_begins_from(options, monkeypatch):
    second_part = replace(core_options.PRESETS["tiny-test"][1], init=Path("first.safetensors"))
    monkeypatch.setitem(core_options.PRESETS, "second", ("For tests.", second_part))
    assert ablations.base_options(Bench(replace(options, preset="second"))).init is None


def test_unknown_rows_and_presets_are_named(options):
    with pytest.raises(InputError, match=r"'headline'.*groups are model, inputs"):
        choose_rows(("headline",))
    with pytest.raises(InputError, match="'huge'"):
        ablations.ablation_size(replace(options, preset="huge"))
    assert [row.name for row in choose_rows(("optimum", "model"))] == ["ours", "refined", "ours-256", "optimum"]


def test_shown_views_and_frames_are_spread_and_begin_with_the_first(options):
    bench = Bench(options)
    inputs = bench.inputs(bench.headline)[0].unpack()
    assert inputs.cameras.batch_shape == (2, 4)
    assert InputSubset().of(inputs).images.equal(inputs.images)
    assert InputSubset(views=1).of(inputs).images.equal(inputs.images[:, :1])
    assert InputSubset(views=2, frames=1).of(inputs).images.equal(inputs.images[:1, [0, 2]])


@torch.no_grad()
def test_one_frames_gaussians_go_back_where_they_were(options):
    """Bound to the body and posed as in that frame they are what the U-Net saw."""
    from core.avatar.skinning import pose_avatar

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


def test_refined_rows_are_of_the_same_avatars_after_some_steps(options):
    assert measure_rows(replace(options, rows=("ours", "refined", "views-1", "refined-1"))) == []
    for plain, refined in (("ours", "refined"), ("views-1", "refined-1")):
        before, after = record(options, plain), record(options, refined)
        settings = dict(after["settings"])
        refinement = settings.pop("refinement")
        assert settings == before["settings"] and refinement["steps"] == 2 and "prior" in refinement
        assert after["metrics"] != before["metrics"] and after["avatar_ms"] > before["avatar_ms"]
        assert after["gaussians"] == before["gaussians"] and after["trainings"] == before["trainings"]
    assert measure_rows(replace(options, rows=("refined",), refine_steps=3)) == []
    assert record(options, "refined")["settings"]["refinement"]["steps"] == 3


@torch.no_grad()
def test_the_optimum_is_nearer_to_the_pictures(options):
    from scripts.results.optimum import optimise

    bench = Bench(options)
    session, targets = bench.headline, bench.people.targets(48)[:1]
    start = bench.avatars(session, InputSubset())[:1]
    best = optimise(start[0], session, targets[0], 12)
    before, after = (
        bench.measure_avatars(avatars, session, 48, bench.metric_suite())["mean"] for avatars in (start, [best])
    )
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
    with pytest.raises(InputError, match="no records of rows"):
        script.main(replace(options, table_only=True))
