"""How the open stand-in body is derived from MakeHuman's CC0 data. Only scripts/make_standin_body.py needs this.

makehuman   the base mesh, its shape targets, its rig, and random adults
skeleton    SMPL's 24 joints on MakeHuman's rig
tpose       every adult in SMPL's rest pose
surface     triangles, mirror symmetric, with texture charts
decimate    13380 vertices to SMPL's 6890
regressors  joints, shape space and skinning weights
correctives pose-corrective blend shapes
landmarks   SMPL's numbers for nose, fingertips, heels
asset       the compact file
"""
