"""Check the packages of this interpreter against requirement files: `python scripts/check_requirements.py FILE...`

Prints what is missing and exits with status 1 if anything is. It runs in interpreters in which nothing is installed,
therefore it parses requirements itself instead of by `packaging`. It supports the lines of our files: `name`,
`name>=1.2`, `name==1.2`, comments and `-r other.txt`.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - the interpreter may be older, and lack what is imported below
    sys.stdout.write("Python 3.10 or newer (this is {}.{})\n".format(*sys.version_info))
    sys.exit(1)

import re
from importlib import metadata
from pathlib import Path

MAX_BYTES = 2**20
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)\s*(?:(>=|==)\s*([0-9][0-9.]*))?$")


def release(version: str) -> tuple[int, ...]:
    """The release segment of a version without trailing zeros: (2, 13) for `2.13.0+cpu`."""
    numbers = [int(x) for x in re.match(r"[0-9]+(?:\.[0-9]+)*", version).group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def requirements(path: Path) -> list[str]:
    """Requirement lines of a file and of the files that it includes."""
    lines = []
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: no file of requirements; name one")
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r"):
            lines += requirements(path.parent / line[2:].strip())
        elif line:
            lines.append(line)
    return lines


def is_met(requirement: str) -> bool:
    """True if the installed distributions satisfy a requirement line."""
    match = REQUIREMENT.match(requirement)
    if match is None:
        raise ValueError(f"cannot parse the requirement {requirement!r}; write it as name, name>=1.2 or name==1.2")
    name, operator, wanted = match.groups()
    try:
        installed = release(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
    if operator is None:
        return True
    return installed == release(wanted) if operator == "==" else installed >= release(wanted)


def main(paths: list[str]) -> int:
    """Print the unsatisfied requirements on one line; return 0 if there are none, else 1."""
    wanted = dict.fromkeys(line for path in paths for line in requirements(Path(path)))
    missing = [line for line in wanted if not is_met(line)]
    if missing:
        print(", ".join(missing))
    return 1 if missing else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
