"""Constants of image colour sampling that references and kernels share: layout of an observation, and thresholds."""

# Rows of an observation's features. The first three are its RGB colour.
COVERAGE, COSINE, DEPTH_BEHIND, LOG_SIZE, VISIBLE = 3, 4, 5, 6, 7
NUM_FEATURES = 8

ZBUFFER_SIZE = 128
"""Cells along each side of the depth buffer. In a finer one, gaps between Gaussians would be holes."""
NEAR = 0.05
"""Distance in front of a camera, in metres, within which nothing is visible."""
MIN_COSINE = 0.05
"""Minimum cosine between surface normal and viewing direction of a visible Gaussian."""
OCCLUDER_OPACITY = 0.3
"""Gaussians with an opacity up to this value occlude nothing."""
DEPTH_SLACK = (0.02, 0.1)
"""Metres behind the nearest surface at which a Gaussian still counts as part of it: the least, and the most, which
applies to slanted surfaces."""
PIXEL_UNIT = 0.005
"""Unit of a pixel's size on the body, in metres: about that of usual images."""

COSINE_PREFERENCE = 3.0
"""Slope of the blending logit in the cosine: before training, a frontal view has exp(3) times the weight of a grazing
one."""
