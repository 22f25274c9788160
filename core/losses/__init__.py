"""Losses and metrics of images, each kernel beside its reference."""
