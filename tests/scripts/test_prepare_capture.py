"""The command line of scripts/prepare_capture.py and scripts/get_pose_models.py."""

from forked_script import run_script


def run(script, *arguments):
    return run_script(f"scripts/{script}", *arguments)


def test_what_is_missing_is_one_line(tmp_path):
    done = run("prepare_capture.py", tmp_path / "me.mp4", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0
    assert "me.mp4: no such file" in done.stderr


def test_options_are_checked(tmp_path):
    done = run("prepare_capture.py", tmp_path, "--out", tmp_path / "out", "--height", "170")
    assert done.returncode == 2 and "--height must be at" in done.stderr and "got 170" in done.stderr


def test_help_names_the_options():
    done = run("prepare_capture.py", "--help")
    assert done.returncode == 0
    for option in ("--frames", "--person", "--focal", "--calibration", "--masks", "--keypoints", "--fits", "--height"):
        assert option in done.stdout


def test_a_wrong_archive_is_refused(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"no wheel")
    done = run("get_pose_models.py", "--archive", tmp_path / "a.whl", "--out", tmp_path / "pose")
    assert done.returncode == 2 and "not a wheel" in done.stderr
