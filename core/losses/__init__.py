"""Losses and metrics of images; each kernel stands beside its reference."""
