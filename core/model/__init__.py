"""The network: a U-Net from pixels to Gaussians, and a graph from those to body vertices."""
