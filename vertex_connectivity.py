"""Write the mesh neighbourhoods of a body model's vertices to a file.

    python vertex_connectivity.py [--body FILE] [--out FILE]

Training builds them by itself when it is given no file (`--connectivity`); see smpl_renderer/connectivity.py for their
meaning.
"""

from core.utils.environment import require

require()

import logging
from pathlib import Path

import tyro

from core.utils.cli import run
from smpl_renderer.body_files import SMPL_FILES, STANDIN_BODY, load_body
from smpl_renderer.connectivity import NUM_NEIGHBORS, build_connectivity, save_connectivity
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


def main(
    body: Path | None = None,
    out: Path = Path("vertex_connectivity_tensors.pt"),
    num_neighbors: int = NUM_NEIGHBORS,
) -> None:
    """Write the mesh neighbourhoods of a body model's vertices to a file.

    Args:
        body: Body model file (.npz or .pkl); by default SMPL where it is installed, else the shipped stand-in.
        out: Where to write.
        num_neighbors: Vertices in a neighbourhood, the vertex itself included.
    """
    if num_neighbors < 1:
        raise InputError(f"--num-neighbors {num_neighbors}: give at least 1, the vertex itself")
    path = body or next((path for path in SMPL_FILES if path.is_file()), STANDIN_BODY)
    model = load_body(path)
    connectivity = build_connectivity(model, num_neighbors)
    save_connectivity(out, connectivity)
    logger.info("wrote %d neighbours of each of %d vertices of %s to %s", num_neighbors, model.num_vertices, path, out)


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
