"""HDR video to SDR: HLG and PQ with BT.2020 primaries to sRGB, with a soft shoulder above diffuse white.

Sources: ITU-R BT.2100-2 (transfer functions), BT.2087 (primaries), BT.2408 (diffuse white at 203 cd/m^2).
"""

from typing import Literal

import numpy as np

Curve = Literal["hlg", "pq"]
_TRANSFERS: dict[int, Curve] = {16: "pq", 18: "hlg"}
"""ISO/IEC 23091-2 numbers of transfer characteristics."""
DIFFUSE_WHITE = 203.0
SHOULDER = 0.8
"""Relative luminance, 1 being diffuse white, from which highlights are compressed."""
_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)


def hdr_curve(frame) -> Curve | None:
    """Transfer function of an HDR frame; None for an ordinary one."""
    return _TRANSFERS.get(int(getattr(frame, "color_trc", 0) or 0))


def to_sdr(signal: np.ndarray, curve: Curve) -> np.ndarray:
    """8-bit sRGB [H, W, 3] from a non-linear BT.2020 signal in 0..1."""
    linear = _hlg_to_nits(signal) if curve == "hlg" else _pq_to_nits(signal)
    linear = np.maximum(linear / DIFFUSE_WHITE @ _BT2020_TO_BT709.T, 0)
    peak = linear.max(-1, keepdims=True)
    # All channels by one factor, so that highlights keep their hue.
    linear = linear * (_compress(peak) / np.maximum(peak, 1e-6))
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return (srgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _compress(x: np.ndarray) -> np.ndarray:
    room = 1 - SHOULDER
    return np.where(x <= SHOULDER, x, SHOULDER + room * (1 - np.exp(-(x - SHOULDER) / room)))


def _hlg_to_nits(signal: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ [0.2627, 0.6780, 0.0593]
    return 1000 * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2


def _pq_to_nits(signal: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
