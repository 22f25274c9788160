"""The colour guided filter: a map that follows the edges of an image. He, Sun, Tang, Guided Image Filtering (2010)."""

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy import ndimage


def guided_filter(
    image: Float[np.ndarray, "H W 3"], values: Float[np.ndarray, "H W"], radius: int, eps: float = 1e-4, reduce: int = 1
) -> Float[np.ndarray, "H W"]:
    """Filter `values` with the guidance of an RGB image in 0..1.

    In every window of `2 radius + 1` pixels the result is a linear function of the colour.

    Args:
        eps: Regularisation of that function, a variance of colours.
        reduce: Fit the functions on an image reduced by this factor (He, Sun, Fast Guided Filter, 2015).
    """
    height, width = values.shape
    guide, p = image, values
    if reduce > 1:
        size = max(1, width // reduce), max(1, height // reduce)
        guide = np.stack([_resize(image[..., c], size, Image.BOX) for c in range(3)], -1)
        p = _resize(values, size, Image.BOX)
    window = 2 * max(1, round(radius / reduce)) + 1

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(x, window, mode="nearest")

    guide_channels = [np.ascontiguousarray(guide[..., c], np.float32) for c in range(3)]
    p = p.astype(np.float32)
    mean_I, mean_p = [mean(c) for c in guide_channels], mean(p)
    cov_Ip = [mean(c * p) - m * mean_p for c, m in zip(guide_channels, mean_I)]
    S = {
        (i, j): mean(guide_channels[i] * guide_channels[j]) - mean_I[i] * mean_I[j]
        for i in range(3)
        for j in range(i, 3)
    }
    for i in range(3):
        S[i, i] = S[i, i] + eps
    a = _solve_symmetric(S, cov_Ip)
    b = mean_p - sum(x * m for x, m in zip(a, mean_I))
    coefficients = [mean(x) for x in (*a, b)]
    if reduce > 1:
        coefficients = [_resize(x, (width, height), Image.BILINEAR) for x in coefficients]
    return sum(c * image[..., i] for i, c in enumerate(coefficients[:3])) + coefficients[3]


def _resize(plane: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(size, method))


def _solve_symmetric(S: dict[tuple[int, int], np.ndarray], rhs: list[np.ndarray]) -> list[np.ndarray]:
    """Solve one symmetric 3 x 3 system per pixel by cofactors.

    In float64: where two channels are proportional, cofactors cancel, and a determinant of 0 would make the result
    infinite, which sums over windows then spread through rows and columns.
    """
    a, b, c, d, e, f = (S[k].astype(np.float64) for k in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    A, B, C = d * f - e * e, c * e - b * f, b * e - c * d
    D, E, F = a * f - c * c, b * c - a * e, a * d - b * b
    determinant = a * A + b * B + c * C
    inverse = [[A, B, C], [B, D, E], [C, E, F]]
    return [(sum(row[i] * rhs[i] for i in range(3)) / determinant).astype(np.float32) for row in inverse]
