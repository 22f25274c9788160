"""Write the mesh neighbourhoods of a body model's vertices to a file.

    python vertex_connectivity.py [--body FILE] [--out FILE]

Training computes them itself without a file (`--connectivity`). smpl_renderer/connectivity.py defines them.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

from core.utils.environment import require

require()

import logging
from pathlib import Path

import tyro

from core.utils.cli import command_line, run
from core.utils.ranges import Count, checked
from smpl_renderer.body_files import SMPL_FILES, STANDIN_BODY, load_body
from smpl_renderer.connectivity import NUM_NEIGHBORS, build_connectivity, save_connectivity
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


def main(
    body: Path | None = None,
    out: Path = Path("vertex_connectivity_tensors.pt"),
    num_neighbors: Count = NUM_NEIGHBORS,
) -> None:
    """Write the mesh neighbourhoods of a body model's vertices to a file.

    Args:
        body: Body model file (.npz or .pkl); by default SMPL where it is installed, else the shipped stand-in.
        out: Output file.
        num_neighbors: Vertices in a neighbourhood, the vertex itself included; at most the number of vertices.
    """
    path = body or next((path for path in SMPL_FILES if path.is_file()), STANDIN_BODY)
    model = load_body(path)
    if num_neighbors > model.num_vertices:
        raise InputError(
            f"--num-neighbors must be at most {model.num_vertices}, the vertices of {path}, got {num_neighbors}"
        )
    connectivity = build_connectivity(model, num_neighbors)
    save_connectivity(out, connectivity)
    logger.info("wrote %d neighbours of each of %d vertices of %s to %s", num_neighbors, model.num_vertices, path, out)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main), args=command_line()))
