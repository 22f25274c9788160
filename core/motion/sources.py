"""A motion by the name of a built-in one, or from a file."""

from pathlib import Path

from core.motion.builtin import SEQUENCES, builtin_motion
from core.motion.files import KNOWN, read_motion
from core.motion.motion import Motion, facing_front
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError


def open_motion(
    source: str | Path, body: BodyModel, up: str = "auto", fps: float | None = None, person: int | None = None
) -> Motion:
    """The motion that an option names. It begins above the origin; the body faces +z.

    Args:
        source: Name of a built-in motion, or path of a file or folder.
        body: The body that will move.
        up, fps, person: As of `read_motion`, for files.
    Raises:
        InputError: If there is neither such a name nor such a file, or the file cannot be used.
    """
    if str(source) in SEQUENCES:
        return builtin_motion(str(source), body)
    if not Path(source).exists():
        raise InputError(
            f"no built-in motion and no file is called {str(source)!r}; there are {', '.join(SEQUENCES)}, and of files "
            f"{KNOWN}"
        )
    return facing_front(read_motion(Path(source), body, up, fps, person))
