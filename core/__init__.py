"""Human Gaussian Graph: a few frames of a person in, an animatable avatar of 3D Gaussians out."""

__version__ = "0.1.0"
