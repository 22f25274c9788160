"""scripts/doctor.py: what it reports in this environment, and in broken ones."""

import json
import subprocess
import sys

import pytest

from core.inference import options
from scripts import doctor
from scripts.doctor import NOTE, OK, PROBLEM, examine
from smpl_renderer import body_files
from smpl_renderer.files import REPOSITORY


def statuses(topic: str) -> list[tuple[str, str | None]]:
    return [(finding.status, finding.command) for finding in examine() if finding.topic == topic]


@pytest.mark.slow
def test_report_as_json():
    command = [sys.executable, str(REPOSITORY / "scripts" / "doctor.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["can_run"], done.stdout
    topics = {finding["topic"] for finding in report["findings"]}
    assert {"system", "packages", "device", "rasterizer", "body", "checkpoint", "data"} <= topics
    assert all(finding["status"] in (OK, NOTE, PROBLEM) for finding in report["findings"])


def test_a_missing_package_is_a_problem_with_a_command(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "MODULES", (*doctor.MODULES, "no_such_package"))
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    assert doctor.main() == 1
    text = capsys.readouterr().out
    assert "no_such_package" in text and "scripts/setup.sh" in text and "cannot run: 1" in text


def test_missing_files_are_problems_or_notes(monkeypatch, tmp_path):
    assert statuses("checkpoint") == [(OK, None)]
    monkeypatch.setattr(options, "SHIPPED_CHECKPOINT", tmp_path / "none.safetensors")
    monkeypatch.setattr(options, "SHIPPED_CAPTURES", tmp_path / "none")
    monkeypatch.setattr(body_files, "STANDIN_BODY", tmp_path / "none.npz")
    for topic, status in (("checkpoint", PROBLEM), ("data", NOTE)):
        ((found, command),) = statuses(topic)
        assert found == status and command
    assert statuses("body")[0][0] == PROBLEM


def test_optional_packages_are_never_problems(monkeypatch):
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_package": ("nothing", "pip install nothing")})
    assert statuses("optional") == [(NOTE, "pip install nothing")]
