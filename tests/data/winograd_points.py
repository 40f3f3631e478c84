"""The rounding error of Winograd's method with several points: prints the largest error of a layer over its range.

A layer of 32 channels on rectified noise, weights of He's scale, transforms and sums in float32, against float64; for
comparison the same layer as a sum in float32. The kernels use the lines marked *: see src/network/conv/transform.rs.
"""

import numpy as np


def transforms(pairs: tuple[float, ...], taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ, Bᵀ and G of the points 0, ±a, ±b, … and infinity."""
    points = [0.0, *(sign * p for p in pairs for sign in (1, -1))]
    tile = len(points) + 2 - taps
    scales = [np.prod([p - q for q in points if q != p]) for p in points]
    g = [[p**k / s for k in range(taps)] for p, s in zip(points, scales, strict=True)]
    g.append([float(k == taps - 1) for k in range(taps)])
    outputs = [[p**i for p in points] + [float(i == tile - 1)] for i in range(tile)]
    inputs = [np.append(np.poly([q for q in points if q != p])[::-1], 0) for p in points]
    inputs.append(np.poly(points)[::-1])
    return np.array(outputs), np.array(inputs), np.array(g)


def errors(pairs: tuple[float, ...], taps: int, channels: int = 32, tiles: int = 200) -> tuple[float, float]:
    """Largest error of a layer, and of a sum in float32, as a part of the range of its result."""
    outputs, inputs, g = transforms(pairs, taps)
    tile, side = outputs.shape
    random = np.random.default_rng(0)
    image = np.maximum(random.standard_normal((tiles, channels, side, side)), 0).astype(np.float32)
    weights = random.standard_normal((channels, channels, taps, taps)) * np.sqrt(2 / taps**2 / channels)
    weights = weights.astype(np.float32)

    def layer(kind: type) -> np.ndarray:
        shifts = [(i, j) for i in range(taps) for j in range(taps)]
        parts = (image[:, :, i : i + tile, j : j + tile].astype(kind) for i, j in shifts)
        taken = (weights[:, :, i, j].astype(kind) for i, j in shifts)
        return sum(np.einsum("tcyx,kc->tkyx", part, weight) for part, weight in zip(parts, taken, strict=True))

    exact = layer(np.float64)
    kernel = np.einsum("ai,kcij,bj->kcab", g, weights.astype(float), g).astype(np.float32)
    outputs, inputs = outputs.astype(np.float32), inputs.astype(np.float32)
    panel = np.einsum("bj,tcaj->tcab", inputs, np.einsum("ai,tcij->tcaj", inputs, image))
    product = np.einsum("kcab,tcab->tkab", kernel, panel, dtype=np.float32)
    found = np.einsum("jb,tkib->tkij", outputs, np.einsum("ia,tkab->tkib", outputs, product))
    return tuple(float(np.abs(result - exact).max() / np.ptp(exact)) for result in (found, layer(np.float32)))


if __name__ == "__main__":
    for taps, pairs, mark in [
        (2, (1.0,), "* precise, many channels, or 3 taps of stride 2"),
        (2, (5 / 8, 3 / 2), "*"),
        (3, (1.0,), "* precise"),
        (3, (1.0, 2.0), ""),
        (3, (1.0, 1 / 2), ""),
        (3, (1.0, 5 / 8), "* enlarged"),
        (3, (5 / 8, 3 / 2), "*"),
        (3, (9 / 16, 1.0, 13 / 8), ""),
        (5, (5 / 8, 3 / 2), ""),
        (5, (1.0, 1 / 2, 2.0), "*"),
        (5, (1.0, 9 / 16, 13 / 8), ""),
    ]:
        found, direct = errors(pairs, taps)
        tile = 2 * len(pairs) + 3 - taps
        print(f"F({tile}, {taps}) {', '.join(f'{p:g}' for p in pairs):16} {found:.1e}, sum {direct:.1e} {mark}")
