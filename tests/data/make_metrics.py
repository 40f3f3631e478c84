"""Makes metrics.json and metrics.bin, the cases of tests/metrics.rs, with scikit-image and numpy.

    python make_metrics.py

metrics.bin holds the arrays one after another as little-endian float32; metrics.json names each case, its shape,
where its arrays start (in samples), and what scikit-image finds. Written with numpy 2.4 and scikit-image 0.26.
"""

import json
import pathlib

import numpy as np
from skimage.filters import gaussian
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

HERE = pathlib.Path(__file__).parent
WINDOWS = {"uniform": {}, "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}}
PERCENTILES = [0, 0.1, 2, 33.3, 50, 99.8, 99.9, 100]


def cases():
    """name -> (reference, restored, degraded, data_range), float32 arrays of one shape."""
    rng = np.random.default_rng(2)

    def cells(y, x, sigma=2.0):
        smooth = gaussian(rng.random((y, x)), sigma, mode="wrap")
        return (smooth - smooth.min()) / (smooth.max() - smooth.min())

    def case(reference, data_range, noise, gain=1.0, offset=0.0):
        degraded = gain * reference + offset + noise * rng.standard_normal(reference.shape)
        restored = gain * gaussian(degraded, 1.0, preserve_range=True)
        return tuple(np.asarray(a, np.float32) for a in (reference, restored, degraded)) + (data_range,)

    yield "cells", case(cells(40, 36), 1.0, 0.2)
    yield "counts", case(np.round(200 + 3000 * cells(31, 45, 1.0) ** 3), 65535.0, 80.0, 0.7, 90.0)
    yield "other_units", case(cells(24, 24), 1.0, 3.0, 55.0, -4.0)
    yield "smallest", case(cells(11, 11), 0.5, 0.1)
    yield "row_of_windows", case(cells(11, 60), 1.0, 0.3)
    reference, _, degraded, data_range = case(cells(20, 17), 1.0, 0.1)
    yield "constant_restored", (reference, np.full_like(reference, 0.25), degraded, data_range)
    reference, *_ = case(cells(19, 20), 1.0, 0.1)
    noise = rng.standard_normal(reference.shape).astype(np.float32)
    yield "unrelated", (reference, noise, noise - 1, 1.0)


def scale(image, like):
    low, high = np.percentile(like, (0.1, 99.9))
    return (image - low) / (high - low) if high > low else image - low


def affine(x, y):
    dx = x - x.mean()
    variance = np.mean(dx * dx)
    gain = np.mean(dx * (y - y.mean())) / variance if variance > 0 else 0.0
    return gain, y.mean() - gain * x.mean()


def figures(reference, image, data_range):
    return {
        "psnr": peak_signal_noise_ratio(reference, image, data_range=data_range),
        "nrmse": normalized_root_mse(reference, image),
        "ssim": {
            name: structural_similarity(reference, image, data_range=data_range, **options)
            for name, options in WINDOWS.items()
        },
    }


def main():
    stored, start = [], 0
    with open(HERE / "metrics.bin", "wb") as file:
        for name, (*arrays, data_range) in cases():
            for array in arrays:
                file.write(array.astype("<f4").tobytes())
            reference, restored, degraded = (a.astype(np.float64) for a in arrays)
            unit = scale(reference, reference)
            plain = {
                "as_is": restored,
                "own": scale(restored, restored),
                "input": scale(restored, degraded),
                "reference": scale(restored, reference),
            }
            gain, offset = affine(restored, unit)
            stored.append(
                {
                    "name": name,
                    "shape": reference.shape,
                    "start": start,
                    "data_range": data_range,
                    "raw": figures(reference, restored, data_range),
                    "percentiles": [[q, float(np.percentile(restored, q))] for q in PERCENTILES],
                    "gain": gain,
                    "offset": offset,
                    "affine": figures(unit, gain * restored + offset, 1.0),
                    "plain": {mode: figures(unit, image, 1.0) for mode, image in plain.items()},
                }
            )
            start += 3 * reference.size
    (HERE / "metrics.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
