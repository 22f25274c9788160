"""Bodies in SMPL's format fitted to landmarks, masks and meshes.

    result = fit_bodies(observations, body, options, on_step=None, initial=None)

`observations` (`Observations`) hold the cameras, the landmarks and the silhouettes of one person in F frames and C
cameras; `body` is any `BodyModel` with SMPL's joints; `options` (`FitOptions`) have useful defaults. The result
(`FitResult`) has one `BodyParams` with a batch axis over frames (one shape, one scale), gravity and the ground, and the
quality of each frame with warnings. Everything runs on the device of the observations. `on_step(done, total,
terms)` reports progress. `initial` are bodies to start from instead of the landmarks.
"""

from smpl_renderer.fitting.fit import OnStep, fit_bodies
from smpl_renderer.fitting.observations import Observations, Silhouettes
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.result import FitResult, FrameQuality

__all__ = ["FitOptions", "FitResult", "FrameQuality", "Observations", "OnStep", "Silhouettes", "fit_bodies"]
