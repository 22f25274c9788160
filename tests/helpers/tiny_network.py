"""Options of a U-Net that trains and infers in seconds."""

from core.options import UNetOptions

TINY_UNET = UNetOptions(
    input_size=32,
    splat_size=16,
    down_channels=(8, 16),
    down_attention=(False, True),
    mid_attention=False,
    up_channels=(16,),
    up_attention=(False,),
    layers_per_block=1,
)
