"""Types of the values that the stages exchange: cameras, Gaussians, frames."""
