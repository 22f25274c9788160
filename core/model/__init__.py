"""The network: a U-Net decodes Gaussians from images, and a graph gathers them at body vertices. Start at `hgg.py`."""
