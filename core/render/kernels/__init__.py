"""Triton kernels of backend `triton`, one file per stage; `core/render/torch_backend.py` defines what they compute."""
