"""Options of a fit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit of bodies."""

    moving_camera: bool = False
    """Gravity and the ground are estimated for each frame (a hand-held camera) instead of once for all."""
    height: float | None = None
    """Body height in metres, where known. One camera cannot observe it otherwise."""
    scale: float | None = None
    """Keep the body's scale at this value. None: 1 for one camera, estimated for several."""
    same_pose: float = 1.0
    """Factor on the robust term that draws the joints of all frames towards a common pose."""
    smooth: float = 1.0
    """Factor on the smoothness of frames that are close in time; needs `Observations.times`."""
    fit_shape: bool = True
    """Estimate the shape; else the initial one (the mean shape without one) is kept."""
    fit_hands: bool = False
    """Estimate the wrists and hand joints freely instead of keeping them close to straight."""
    flips: bool = True
    """Try the mirrored depth of arms and legs and keep the better one."""
    steps: float = 1.0
    """Factor on the number of optimisation steps: less is faster and coarser."""
    cuda_graphs: bool = True
    """Replay steps from CUDA graphs, on a GPU."""
