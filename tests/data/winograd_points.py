"""The rounding error of F(4, 3) with several points: prints the largest error of a layer as a part of its range.

A layer of 32 channels on rectified noise, weights of He's scale, transforms and sums in float32, against float64.
The kernels of src/network/conv/winograd.rs use 5/8 and 3/2, and 1 and 5/8 for enlarged inputs.
"""

import numpy as np


def transforms(a: float, b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ, Bᵀ and G of the points 0, ±a, ±b and infinity."""
    points = [0, a, -a, b, -b]
    scales = [np.prod([p - q for q in points if q != p]) for p in points]
    g = np.array([[1 / s, p / s, p * p / s] for p, s in zip(points, scales, strict=True)] + [[0, 0, 1]])
    outputs = np.array([[float(p) ** i for p in points] + [float(i == 3)] for i in range(4)])
    rows = [np.poly([q for q in points if q != p])[::-1] for p in points]
    inputs = np.array([np.append(row, 0) for row in rows] + [np.poly(points)[::-1]])
    return outputs, inputs, g


def error(a: float, b: float, channels: int = 32, tiles: int = 200) -> float:
    """Largest error of a layer as a part of the range of its result."""
    random = np.random.default_rng(0)
    image = np.maximum(random.standard_normal((tiles, channels, 6, 6)), 0).astype(np.float32)
    weights = random.standard_normal((channels, channels, 3, 3)) * np.sqrt(2 / 9 / channels)
    weights = weights.astype(np.float32)
    exact = sum(
        np.einsum("tcyx,kc->tkyx", image[:, :, i : i + 4, j : j + 4].astype(float), weights[:, :, i, j].astype(float))
        for i in range(3)
        for j in range(3)
    )
    outputs, inputs, g = transforms(a, b)
    kernel = np.einsum("ai,kcij,bj->kcab", g, weights.astype(float), g).astype(np.float32)
    outputs, inputs = outputs.astype(np.float32), inputs.astype(np.float32)
    panel = np.einsum("bj,tcaj->tcab", inputs, np.einsum("ai,tcij->tcaj", inputs, image))
    product = np.einsum("kcab,tcab->tkab", kernel, panel, dtype=np.float32)
    found = np.einsum("jb,tkib->tkij", outputs, np.einsum("ia,tkab->tkib", outputs, product))
    return float(np.abs(found - exact).max() / np.ptp(exact))


if __name__ == "__main__":
    for points in [(1, 2), (1, 1 / 2), (1, 5 / 8), (5 / 8, 3 / 2)]:
        print(points, f"{error(*points):.1e}")
