"""Triton kernels of backend `triton`, one file per stage: project, bin, composite. `core/render/torch_backend.py` defines what they compute."""
