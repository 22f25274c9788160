"""Derivation of the open stand-in body from MakeHuman's CC0 data, for scripts/make_standin_body.py.

makehuman   base mesh, shape targets, rig, and random adults
skeleton    SMPL's 24 joints on MakeHuman's rig
tpose       adults in SMPL's rest pose
surface     triangles, mirror symmetric, with texture charts
decimate    from 13380 vertices to SMPL's 6890
regressors  joints, shape space and skinning weights
correctives pose-corrective blend shapes
landmarks   SMPL's vertex indices for nose, fingertips, heels
asset       compact file
"""
