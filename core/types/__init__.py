"""Values that travel between the stages: cameras, Gaussians, frames."""
