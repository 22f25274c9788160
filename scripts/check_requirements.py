"""Tell whether this interpreter has what requirement files ask for: `python scripts/check_requirements.py FILE...`

Prints what is missing and exits with status 1 if anything is. Standard library only: it runs where nothing may be.
Understands what our files hold: `name>=1.2` or `name==1.2`, comments and `-r other.txt`.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)\s*(?:(>=|==)\s*([0-9][0-9.]*))?$")


def release(version: str) -> tuple[int, ...]:
    """The release part of a version as numbers, trailing zeros cut: `2.13.0+cpu` is (2, 13)."""
    numbers = [int(x) for x in re.match(r"[0-9]+(?:\.[0-9]+)*", version).group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def requirements(path: Path) -> list[str]:
    """The requirement lines of a file and of those it includes."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            lines += requirements(path.parent / line[2:].strip())
        elif line:
            lines.append(line)
    return lines


def is_met(requirement: str) -> bool:
    """Whether the installed distributions satisfy one requirement line."""
    match = REQUIREMENT.match(requirement)
    if match is None:
        raise ValueError(f"requirement not understood: {requirement!r}; write it as name, name>=1.2 or name==1.2")
    name, operator, wanted = match.groups()
    try:
        installed = release(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
    if operator is None:
        return True
    return installed == release(wanted) if operator == "==" else installed >= release(wanted)


def main(paths: list[str]) -> int:
    """Print the requirements that are not met, on one line; 0 if there are none."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this file's reader may be an older interpreter
        print(f"Python >= 3.10 (this is {sys.version.split()[0]})")
        return 1
    wanted = dict.fromkeys(line for path in paths for line in requirements(Path(path)))
    missing = [line for line in wanted if not is_met(line)]
    if missing:
        print(", ".join(missing))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
