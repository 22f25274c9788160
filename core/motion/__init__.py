"""Motions: poses of SMPL's kinematic tree over time, built in or read from files, applied to any body."""
