"""scripts/results.py on a benchmark of four people: rows, resuming, failures, agreement with infer.py."""

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
from scripts.results import ablations, images
from scripts.results.bench import Bench, InputSubset, one_frame_avatar
from scripts.results.data_id import data_id
from scripts.results.findings import read_records
from scripts.results.page import results_page
from scripts.results.records import current_settings
from scripts.results.rows import ROWS, choose_rows
from scripts.results.run import measure_rows
from smpl_renderer.errors import InputError

ROOT = Path(__file__).parents[3]
SPLITS = ("novel_view", "novel_pose")


def record(options, row: str) -> dict:
    return json.loads((options.out / f"{row}.json").read_text())


@pytest.mark.slow
def test_metrics_equal_those_of_infer(options, tmp_path, monkeypatch):
    """Our avatars and both baselines, for each person, at the same image size."""
    monkeypatch.setattr(session, "FULL", replace(session.FULL, image_size=48))
    monkeypatch.setattr("core.inference.run.write_outputs", lambda *_: None)  # its files are not compared
    captures = options.root / "test"
    infer.main(
        InferenceOptions(
            captures,
            checkpoint=options.checkpoint,
            workspace=tmp_path / "infer",
            evaluate=True,
            protocol="full",
            device="cpu",
            refine=0,
            complete=False,
            video_size=16,
            video_frames=2,
        )
    )
    expected_metrics = json.loads((tmp_path / "infer" / "metrics.json").read_text())
    assert measure_rows(replace(options, rows=("ours", "mean-color", "vertex-color"))) == []
    for row, expected in (
        ("ours", expected_metrics),
        ("mean-color", expected_metrics["baselines"]["mean_color"]),
        ("vertex-color", expected_metrics["baselines"]["vertex_color"]),
    ):
        metrics = record(options, row)["metrics"]
        assert metrics["subjects"].keys() == expected["subjects"].keys() == {"209900", "209901"}
        for split in SPLITS:
            pairs = [tuple(x["subjects"][name][split] for x in (metrics, expected)) for name in metrics["subjects"]]
            for a, b in [*pairs, (metrics["mean"][split], expected["mean"][split])]:
                assert a.pop("lpips_alex") is b.pop("lpips_alex") is None
                assert a == pytest.approx(b, rel=1e-6)  # the same operations on the same images


def test_ablations_differ_in_one_option(options):
    bench = Bench(options)
    base = ablations.base_options(bench)
    assert base.model.graph.layers == 3 and not base.model.color_sampling and base.validation == 0
    assert (base.steps, base.seed, base.max_minutes) == (1, 0, None)
    assert "feedback" not in ablations.comparable(base)["model"]  # as in records without this option
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
        "patches": {"color_sampling", "feedback", "graph.patches"},
        "one-frame": {"stage"},
    }


def _differences(a: dict, b: dict, part: str | None) -> list[str]:
    if part is None:
        return [key for key in a if key != "model" and a[key] != b[key]]
    graph = [f"graph.{key}" for key, value in a[part]["graph"].items() if value != b[part]["graph"].get(key)]
    return graph + [key for key in a[part] if key != "graph" and a[part][key] != b[part].get(key)]


@pytest.mark.slow
def test_all_rows_and_resuming(options, caplog):
    """All rows are measured once; afterwards none is measured again, and an interrupted run resumes."""
    assert measure_rows(options) == []
    records = read_records(options.out)
    assert list(records) == [row.name for row in ROWS]
    for name, own in records.items():
        assert own["row"] == name and own["commit"] == "abc" and own["device"] == "cpu"
        for split in SPLITS:
            assert own["metrics"]["mean"][split]["psnr"] > 5
        is_baseline = name in ("mean-color", "vertex-color")
        assert (own["gaussians"] is None) == is_baseline
        assert (own["avatar_ms"] is None) == (is_baseline or name == "optimum")
        is_trained = name in {row.name for row in ablations.ABLATIONS}
        assert (own["train_minutes"] is not None) == is_trained
        assert own["steps"] == (None if is_baseline else 1 if is_trained else 3)
        is_ours = not (is_baseline or is_trained or name == "optimum")
        assert [t["steps"] for t in own["trainings"] or ()] == ([8, 3] if is_ours else [])
    # One Gaussian per vertex; those of a frame are one per pixel of the person.
    assert records["graph"]["gaussians"] == 6890 and records["one-frame"]["gaussians"] < 4 * 16 * 16
    assert list(records["optimum"]["metrics"]["subjects"]) == ["209900"]
    page = options.out.with_suffix(".md").read_text()
    assert all(row.title in page for row in ROWS if row.group == "ablations")
    assert page == results_page(records)

    before = {path.name: path.stat().st_mtime_ns for path in options.out.iterdir()}
    assert measure_rows(options) == []
    assert {path.name: path.stat().st_mtime_ns for path in options.out.iterdir()} == before

    # The training of a lost record still exists and is not repeated.
    (options.out / "no-inter.json").unlink()
    caplog.clear()
    assert measure_rows(replace(options, rows=("ablations",))) == []
    assert record(options, "no-inter")["metrics"] == records["no-inter"]["metrics"]
    assert record(options, "no-inter")["steps"] == 1


@pytest.mark.slow
def test_other_settings_are_measured_again(options):
    options = replace(options, rows=("mean-color",))
    assert measure_rows(options) == []
    first = record(options, "mean-color")
    assert measure_rows(replace(options, image_size=40)) == []
    second = record(options, "mean-color")
    assert first["settings"]["image_size"] == 48 and second["settings"]["image_size"] == 40
    assert first["metrics"] != second["metrics"]


@pytest.mark.slow
def test_rows_of_smaller_images_than_those_of_training_are_supersampled(options, body, tmp_path, monkeypatch):
    """Only these rows, and only their settings contain the factor, so that other records stay current."""
    path = tmp_path / "trained.safetensors"
    model, _ = load_checkpoint(options.checkpoint, body)
    save_checkpoint(path, model, step=3, training=json.dumps({"data": {"image_size": 48, "crop": "person"}}))
    options = replace(options, checkpoint=path, rows=("ours", "ours-256"))
    bench = Bench(options)
    named = {row.name: row.settings(bench).get("supersampling") for row in ROWS}
    assert {name: factor for name, factor in named.items() if factor} == {"ours-256": 2}

    drawn = []

    def render(*arguments, supersample, **options):
        drawn.append((arguments[3].width, supersample))
        return render_avatar(*arguments, supersample=supersample, **options)

    monkeypatch.setattr(session, "render_avatar", render)
    assert measure_rows(options) == []
    assert set(drawn) == {(48, 1), (32, 2)}
    assert record(options, "ours-256")["settings"]["supersampling"] == 2

    drawn.clear()
    for name, value in (("TILE", 40), ("TURNTABLE_SIZE", 20), ("TURNTABLE_FRAMES", 2)):
        monkeypatch.setattr(images, name, value)
    images.write_images(options, tmp_path / "images")
    assert set(drawn) == {(40, 2), (20, 3)}


@pytest.mark.slow
def test_a_failed_row_does_not_stop_others(options, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr("scripts.results.rows.optimise", fail)
    monkeypatch.setattr(ablations, "Trainer", fail)
    assert measure_rows(replace(options, rows=("optimum", "views-1", "graph"))) == ["optimum", "graph"]
    assert record(options, "views-1")["settings"]["input_subset"] == {"views": 1, "frames": 8}
    assert not (options.out / "optimum.json").exists()
    assert "optimum failed" in caplog.text and "no luck" in caplog.text


@pytest.mark.slow
def test_a_missing_checkpoint_fails_its_rows_only(options, caplog):
    options = replace(options, checkpoint=Path("no_such.safetensors"), rows=("ours", "layers-1"))
    assert measure_rows(options) == ["ours"]
    assert "no_such.safetensors" in caplog.text and (options.out / "layers-1.json").is_file()


def test_settings_of_earlier_versions_are_read_under_present_names():
    earlier = {
        "shown": {"views": 1},
        "enlargement": 2,
        "training": {"model": {"second_look": True}, "loss": {"tie": 0.1}},
    }
    present = {"model": {"color_sampling": True}, "loss": {"surface_distance": 0.1}}
    expected = {"input_subset": {"views": 1}, "supersampling": 2, "training": present}
    assert current_settings(earlier) == current_settings(expected) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "not a record"), ('{"row": "views-1"}', "lacks commit, data,")],
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
def test_counts_below_one_are_an_error(options, name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must be at least 1, got 0"):
        measure_rows(replace(options, **{name: 0}))


def test_ablations_have_no_initial_checkpoint(options, monkeypatch):
    second_part = replace(core_options.PRESETS["tiny-test"][1], init=Path("first.safetensors"))
    monkeypatch.setitem(core_options.PRESETS, "second", ("For tests.", second_part))
    assert ablations.base_options(Bench(replace(options, preset="second"))).init is None


def test_unknown_rows_and_presets_are_an_error(options):
    with pytest.raises(InputError, match=r"'headline'.*groups are model, inputs"):
        choose_rows(("headline",))
    with pytest.raises(InputError, match="'huge'"):
        ablations.ablation_size(replace(options, preset="huge"))
    assert [row.name for row in choose_rows(("optimum", "model"))] == ["ours", "refined", "ours-256", "optimum"]


def test_input_subsets_are_evenly_spread_and_begin_with_the_first(options):
    bench = Bench(options)
    inputs = bench.inputs(bench.headline)[0].unpack()
    assert inputs.cameras.batch_shape == (2, 4)
    assert InputSubset().select(inputs).images.equal(inputs.images)
    assert InputSubset(views=1).select(inputs).images.equal(inputs.images[:, :1])
    assert InputSubset(views=2, frames=1).select(inputs).images.equal(inputs.images[:1, [0, 2]])


@torch.no_grad()
def test_the_avatar_of_one_frame_reproduces_its_gaussians(options):
    """Skinned to the body and posed as in that frame, they equal the Gaussians of the U-Net."""
    from core.avatar.avatar import pose_avatar

    bench = Bench(options)
    session = bench.headline
    inputs = bench.inputs(session)[0].unpack()
    avatar = one_frame_avatar(session, inputs)
    one = Frames.stack([inputs[:1]])
    seen = session.model.frame_gaussians(one)
    inside = seen.mask[0, 0] & (seen.distances[0, 0] < 0.3)  # offsets are limited
    assert inside.sum() > 50
    # The shape of the avatar is the mean over frames, here that of the one frame.
    posed = pose_avatar(avatar[None], session.body, one.body)[0, 0]
    own = seen.gaussians[0, 0]
    torch.testing.assert_close(posed.means[inside], own.means[inside], rtol=0, atol=2e-4)
    torch.testing.assert_close(posed.scales[inside], own.scales[inside])


@pytest.mark.slow
def test_refined_rows_have_the_same_settings_and_other_metrics(options):
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


@pytest.mark.slow
@torch.no_grad()
def test_the_optimum_is_closer_to_the_target_images(options):
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


def test_data_id_is_the_checksum_of_the_benchmark_only_for_its_people(tmp_path, body):
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


def test_ready_crops_are_preferred_for_training(options, tmp_path):
    bench = Bench(replace(options, root=tmp_path))
    assert bench.train == tmp_path / "train"
    (tmp_path / "crops" / "train").mkdir(parents=True)
    assert bench.train == tmp_path / "crops" / "train"
    assert Bench(replace(options, train=tmp_path / "mine")).train == tmp_path / "mine"


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_two_processes_share_a_folder(options, tmp_path):
    """Each process measures other rows."""
    common = [sys.executable, ROOT / "scripts" / "results.py", "--root", options.root, "--out", options.out]
    common += ["--checkpoint", options.checkpoint, "--image-size", 32, "--device", "cpu", "--optimum-steps", 2]
    jobs = [
        subprocess.Popen(list(map(str, [*common, "--rows", *rows])), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rows in (("views-1",), ("mean-color", "vertex-color"))
    ]
    outputs = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert sorted(p.name for p in options.out.iterdir()) == [*("mean-color.json", "vertex-color.json", "views-1.json")]


def test_the_exit_status_is_1_if_a_row_failed(options, monkeypatch):
    spec = importlib.util.spec_from_file_location("results_script", ROOT / "scripts" / "results.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "measure_rows", lambda options: ["ours"])
    with pytest.raises(SystemExit) as left:
        script.main(options)
    assert left.value.code == 1
    monkeypatch.setattr(script, "measure_rows", lambda options: [])
    script.main(options)
    with pytest.raises(InputError, match="contains no records"):
        script.main(replace(options, table_only=True))
