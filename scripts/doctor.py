"""Check this installation: python scripts/doctor.py [--json]

Reports packages, device, backends, bodies, data, checkpoints and optional packages; for each problem the command that
mends it. Exit status 0 if `python infer.py` can run, else 1.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import MODULES, enable_fused_multiply_add, require_python, use_passive_waiting

require_python()

import argparse
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

from core.utils.cli import run

OK, NOTE, PROBLEM = "ok", "note", "problem"
PRESET_MEMORY = {"tiny": 16, "small": 40, "big": 80}
"""GB of GPU memory for which the presets of training are made."""
MIN_MEMORY_GB, MIN_DISK_GB = 4, 1
DISTRIBUTIONS = {"PIL": "pillow"}
"""Names of packages that differ from those of their modules."""
OPTIONAL = {
    "ai_edge_litert": ("avatars of videos and images", "pip install ai-edge-litert"),
    "numba": ("a rasterizer for CPUs, several times as fast", "pip install numba"),
    "viser": ("scripts/view.py", "pip install viser"),
    "gaussforge": ("export to compressed.ply, spz, sog", "pip install gaussforge"),
    "pxr": ("export to usd", "pip install usd-core"),
    "gsplat": ("another CUDA rasterizer", "see requirements-cuda.txt"),
    "diff_gaussian_rasterization": ("another CUDA rasterizer", "see requirements-cuda.txt"),
    "smplx": ("tests against the reference of SMPL", "pip install smplx==0.1.28"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    status: str
    """`ok`, `note` (works, or concerns something optional) or `problem` (`infer.py` cannot run)."""
    text: str
    command: str | None = None
    """Command that mends it."""


def main() -> int:
    """Print the report; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="machine-readable, for bug reports")
    arguments = parser.parse_args()
    findings = list(examine())
    problems = sum(finding.status == PROBLEM for finding in findings)
    if arguments.json:
        sys.stdout.write(
            json.dumps({"can_run": not problems, "findings": [asdict(f) for f in findings]}, indent=2) + "\n"
        )
    else:
        _print(findings, problems)
    return 1 if problems else 0


def examine() -> Iterator[Finding]:
    """All findings; those that need the packages only if they are there."""
    yield Finding("system", OK, f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    yield from _resources()
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numpy", "tyro", "av") if name not in missing)
    if missing:
        command = "bash scripts/setup.sh, then source .venv/bin/activate"
        yield Finding("packages", PROBLEM, f"missing: {', '.join(missing)}", command)
    else:
        yield Finding("packages", OK, f"all of requirements.txt ({versions})")
        use_passive_waiting()
        enable_fused_multiply_add()
        yield from _device()
        yield from _files()
    for name, (use, command) in OPTIONAL.items():
        found = importlib.util.find_spec(name) is not None
        text = f"{name}: {'installed' if found else 'not installed'} ({use})"
        yield Finding("optional", OK if found else NOTE, text, None if found else command)


def _resources() -> Iterator[Finding]:
    disk = shutil.disk_usage(Path(__file__).parents[1]).free / 1e9
    status = OK if disk > MIN_DISK_GB else PROBLEM
    yield Finding(
        "disk", status, f"{disk:.1f} GB free", None if status == OK else "free some space, or --workspace ELSEWHERE"
    )
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # not on Windows
        return
    status = OK if memory >= MIN_MEMORY_GB else NOTE
    yield Finding("memory", status, f"{memory:.0f} GB; an avatar without a GPU needs about {MIN_MEMORY_GB} GB")


def _device() -> Iterator[Finding]:
    import torch

    from core.render.backends import available_backends, backend_name
    from core.utils.device import pick_device
    from smpl_renderer.dispatch import can_launch

    device = pick_device("auto")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 1e9
        yield Finding("device", OK, f"{properties.name}, {memory:.0f} GB, CUDA {torch.version.cuda}")
        fitting = [name for name, needed in PRESET_MEMORY.items() if memory >= 0.95 * needed]
        text = f"memory is enough for the presets {', '.join(fitting)}" if fitting else "memory is below every preset's"
        command = None if fitting else "bash train.sh tiny --batch-size 1 --checkpoint-unet"
        yield Finding("training", OK if fitting else NOTE, text, command)
        yield Finding("kernels", *_kernels(can_launch()))
    else:
        reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no CUDA device is usable"
        has_driver = shutil.which("nvidia-smi") is not None
        command = "pip install torch (a CUDA build)" if has_driver and torch.version.cuda is None else None
        yield Finding("device", NOTE, f"CPU: {reason}; an avatar takes about a minute", command)
    names = ", ".join(available_backends())
    yield Finding("rasterizer", OK, f"--backend auto takes {backend_name('auto', device)}; available: {names}")


def _kernels(has_compiler: bool) -> tuple[str, str, str | None]:
    if has_compiler:
        return OK, "Triton kernels run", None
    return NOTE, "Triton kernels cannot be launched; PyTorch is used instead", "install gcc and python3-dev"


def _files() -> Iterator[Finding]:
    from core.capture.weights import MODELS, WEIGHTS_FOLDER
    from core.checkpoint import read_metadata
    from core.data.human_list import find_subjects
    from core.inference.options import SHIPPED_CAPTURES, SHIPPED_CHECKPOINT
    from smpl_renderer.body_files import SMPL_FILES, STANDIN_BODY, find_body, load_body
    from smpl_renderer.errors import InputError

    restore = "git checkout -- pretrained test_dataset smpl_renderer/assets"
    try:
        body = load_body(STANDIN_BODY)
        yield Finding("body", OK, f"stand-in {body.fingerprint}")
    except InputError as error:
        yield Finding("body", PROBLEM, str(error), restore)
    smpl = next((path for path in SMPL_FILES if path.is_file()), None)
    if smpl is None:
        yield Finding("body", NOTE, "SMPL: not there; needed for MVHumanNet's fits only", f"put it at {SMPL_FILES[0]}")
    else:
        try:
            yield Finding("body", OK, f"SMPL {load_body(smpl).fingerprint} ({smpl})")
        except InputError as error:
            yield Finding("body", NOTE, str(error), "get a new copy of SMPL")
    try:
        information = read_metadata(SHIPPED_CHECKPOINT)
        find_body(information["body"])
        yield Finding("checkpoint", OK, f"{SHIPPED_CHECKPOINT.name}, step {information.get('step', '?')}")
    except InputError as error:
        yield Finding("checkpoint", PROBLEM, str(error), restore)
    try:
        subjects = ", ".join(entry.subject for entry in find_subjects(SHIPPED_CAPTURES))
        yield Finding("data", OK, f"shipped captures {subjects}")
    except InputError as error:
        yield Finding("data", NOTE, str(error), restore)
    missing = [name for name in MODELS if not (WEIGHTS_FOLDER / f"{name}.tflite").is_file()]
    text = f"pose networks for videos and images: {'not there: ' + ', '.join(missing) if missing else 'all there'}"
    yield Finding(
        "pose networks", NOTE if missing else OK, text, "python scripts/get_pose_models.py" if missing else None
    )


def _version(module: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _print(findings: list[Finding], problems: int) -> None:
    marks = {OK: "ok  ", NOTE: "note", PROBLEM: "FAIL"}
    for finding in findings:
        line = f"{marks[finding.status]}  {finding.topic:13s}  {finding.text}"
        sys.stdout.write(line + (f"\n{'':21s}-> {finding.command}" if finding.command else "") + "\n")
    sys.stdout.write("infer.py can run.\n" if not problems else f"infer.py cannot run: {problems} to mend.\n")


if __name__ == "__main__":
    run(lambda: sys.exit(main()))
