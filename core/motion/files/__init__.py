"""Motions from files of others: estimators of motion from video, motion-capture databases, captures, and BVH."""

from core.motion.files.read import KNOWN, read_motion, read_track

__all__ = ["KNOWN", "read_motion", "read_track"]
