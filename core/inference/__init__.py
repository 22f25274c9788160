"""Inference from captures and a checkpoint to avatars, images, videos and metrics; `infer.py` is the command line."""
