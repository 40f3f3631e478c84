"""Scores mdr beside training-free denoisers on real image pairs; prints the table of the README.

    python rivals.py DATA --mdr target/release/mdr [--model FILE] [--restored NAME=DIR ...]
                     [--scale own|input] [--cache DIR] [--json FILE]

DATA holds low/ and high/ folders with equal file names: bench10/denoise/val, on which the rivals are tuned, and the
sets of SETS, on which everything is scored. A DIR of --restored holds SET/NAME.tif for each of them: images that
something else restored.

Each rival has one parameter. The value with the best mean affine PSNR on bench10/denoise/val is used for all sets;
where the parameter is a factor, it multiplies the noise that scikit-image's estimate_sigma finds in the image at
hand. Images are brought to 0..1 by their 0.1 and 99.9 percentiles before, and back after (BM3D's thresholds are made
for that range). mdr runs with its defaults.

The score is that of bench10 (see the README beside the data): reference scaled by its 0.1 and 99.9 percentiles,
data range 1, scikit-image's PSNR and SSIM; "affine" after a least-squares fit of gain and offset, "plain" without,
the restored image scaled by its own percentiles (--scale own) or by those of the low image (--scale input). A set
scores the mean of its images, and the last column is the mean of the sets.

Restored images are kept in --cache, so that a run after a new model only runs mdr.
Needs numpy, scipy, scikit-image, tifffile, bm3d. The first run takes half an hour on one core, nearly all of it BM3D.
"""

import argparse
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bm3d  # noqa: E402
import numpy as np  # noqa: E402
import tifffile  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402
from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # noqa: E402
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, estimate_sigma  # noqa: E402

TUNING = "bench10/denoise/val"
SETS = {
    "W2S": "bench10/denoise/test",
    "FMD": "denoise/fmd",
    "BPAE": "denoise/bpae_gigadb",
    "two-photon": "denoise/twophoton_flim",
}
PERCENTILES = (0.1, 99.9)


def gaussian(image, sigma_px):
    return gaussian_filter(image, sigma_px)


def total_variation(image, factor):
    return denoise_tv_chambolle(image, weight=factor * estimate_sigma(image), eps=1e-5, max_num_iter=500)


def non_local_means(image, factor):
    sigma = estimate_sigma(image)
    return denoise_nl_means(image, h=factor * sigma, sigma=sigma, patch_size=7, patch_distance=11, fast_mode=True)


def block_matching(image, factor):
    return bm3d.bm3d(image, factor * estimate_sigma(image))


# name in the table -> (function, values of its parameter to try)
RIVALS = {
    "Gaussian blur": (gaussian, [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5]),
    "total variation": (total_variation, [0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8]),
    "non-local means": (non_local_means, [0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 2.5, 3]),
    "BM3D": (block_matching, [1, 1.5, 1.75, 2, 2.25, 2.5, 3]),
    "BM3D, noise as estimated": (block_matching, [1]),
}


def scale(image, like=None):
    low, high = np.percentile(image if like is None else like, PERCENTILES)
    return (image - low) / max(high - low, 1e-12)


def affine_fit(x, y):
    """gain * x + offset with the smallest mean squared distance from y."""
    dx = x - x.mean()
    variance = np.mean(dx * dx)
    gain = np.mean(dx * (y - y.mean())) / variance if variance > 0 else 0.0
    return gain * dx + y.mean()


def score(restored, low, high):
    """The figures of one image, by name."""
    restored, low, high = (np.asarray(a, np.float64) for a in (restored, low, high))
    if restored.shape != high.shape:
        raise ValueError(f"restored is {restored.shape}, the reference is {high.shape}")
    high = scale(high)
    images = {"affine": affine_fit(restored, high), "own": scale(restored), "input": scale(restored, low)}
    out = {}
    for name, image in images.items():
        out["psnr_" + name] = float(peak_signal_noise_ratio(high, image, data_range=1.0))
        out["ssim_" + name] = float(structural_similarity(high, image, data_range=1.0))
    return out


def pairs(folder):
    """name -> (path of low, path of high)"""
    found = {p.name: (folder / "low" / p.name, p) for p in sorted((folder / "high").glob("*.tif"))}
    if not found:
        sys.exit(f"no .tif in {folder / 'high'}")
    return found


def restore(cache, rival, value, _label, path, low):
    """The image that a rival makes of one low image, and the seconds it took; from the cache where it is there."""
    function, _ = RIVALS[rival]
    file = cache / f"{function.__name__}-{value:g}" / path.parts[-3] / (path.stem + ".npz")
    if file.exists():
        stored = np.load(file)
        return stored["image"], float(stored["seconds"])
    bottom, top = np.percentile(low, PERCENTILES)
    start = time.perf_counter()
    image = function((low - bottom) / (top - bottom), value) * (top - bottom) + bottom
    seconds = time.perf_counter() - start
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, image=image.astype(np.float32), seconds=seconds)
    return image.astype(np.float32), seconds


def tune(cache, data, rival):
    """Mean affine PSNR on the tuning set for each value, and the best value."""
    means = {}
    for value in RIVALS[rival][1]:
        scores = []
        for low_path, high_path in pairs(data / TUNING).values():
            low, high = tifffile.imread(low_path).astype(np.float64), tifffile.imread(high_path)
            scores.append(score(restore(cache, rival, value, TUNING, low_path, low)[0], low, high)["psnr_affine"])
        means[value] = float(np.mean(scores))
    best = max(means, key=means.get)
    if len(means) > 1 and best in (min(means), max(means)):
        print(f"{rival}: the best value, {best:g}, is at the end of those tried", file=sys.stderr)
    return best, means


def reader(folder, seconds=None):
    """Reads images that were restored before, each of which took so many seconds."""

    def read(label, path, low):
        return tifffile.imread(folder / label / path.name), seconds[label] if seconds else 0.0

    return read


def run_mdr(args, folder, out):
    """Restores a folder of low images with `mdr restore`; seconds it took."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [args.mdr, "restore", folder, "-o", out, "--quiet"] + (["--model", args.model] if args.model else [])
    start = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True)
    return time.perf_counter() - start


def evaluate(args):
    """method -> {"parameter", "tuning", "sets": {set: {"seconds", "megapixels", "images": {name: figures}}}}"""
    methods = {}

    def add(method, one, **facts):
        sets = {}
        for label, place in SETS.items():
            result = {"seconds": 0.0, "megapixels": 0.0, "images": {}}
            for name, (low_path, high_path) in pairs(args.data / place).items():
                low, high = tifffile.imread(low_path), tifffile.imread(high_path)
                image, seconds = one(label, low_path, low.astype(np.float64))
                result["seconds"] += seconds
                result["megapixels"] += low.size / 1e6
                result["images"][name] = score(image, low, high)
            sets[label] = result
        methods[method] = {**facts, "sets": sets}
        print(f"{method}: done", file=sys.stderr)

    add("input", lambda label, path, low: (low, 0.0))
    for rival in RIVALS:
        value, means = tune(args.cache, args.data, rival)
        add(rival, functools.partial(restore, args.cache, rival, value), parameter=value, tuning=means)
    for spec in args.restored:
        method, _, folder = spec.partition("=")
        add(method, reader(pathlib.Path(folder)), restored=True)
    if args.mdr:
        out = args.cache / "mdr"
        seconds = {label: run_mdr(args, args.data / place / "low", out / label) for label, place in SETS.items()}
        count = {label: len(pairs(args.data / place)) for label, place in SETS.items()}
        add("mdr", reader(out, {label: seconds[label] / count[label] for label in SETS}), restored=True)
    return methods


def images_of(method):
    return [figures for s in method["sets"].values() for figures in s["images"].values()]


def set_mean(method, label, figure):
    return float(np.mean([i[figure] for i in method["sets"][label]["images"].values()]))


def mean_of_sets(method, figure):
    return float(np.mean([set_mean(method, label, figure) for label in SETS]))


def print_tables(methods, mode):
    counts = {label: len(s["images"]) for label, s in methods["input"]["sets"].items()}

    def table(title, cell, last):
        print(f"\n{title}\n")
        print("| method | " + " | ".join(f"{label} ({n})" for label, n in counts.items()) + f" | {last[0]} |")
        print("|---" * (len(counts) + 2) + "|")
        for name, method in methods.items():
            shown = f"{name} ({method['parameter']:g})" if "parameter" in method else name
            print(f"| {shown} | " + " | ".join(cell(method, label) for label in counts) + f" | {last[1](method)} |")

    def figures(suffix):
        return (
            lambda m, label: f"{set_mean(m, label, 'psnr_' + suffix):.2f} / {set_mean(m, label, 'ssim_' + suffix):.3f}",
            lambda m: f"{mean_of_sets(m, 'psnr_' + suffix):.2f} / {mean_of_sets(m, 'ssim_' + suffix):.3f}",
        )

    for title, suffix in (("Affine PSNR (dB) / SSIM", "affine"), (f"Plain PSNR (dB) / SSIM, --scale {mode}", mode)):
        cell, mean = figures(suffix)
        table(title, cell, ("mean of sets", mean))

    def spread(method, label):
        images = method["sets"][label]["images"].values()
        return " / ".join(f"{np.std([i[f + '_affine'] for i in images]):.{d}f}" for f, d in (("psnr", 2), ("ssim", 3)))

    def speed(method):
        seconds = sum(s["seconds"] for s in method["sets"].values())
        return f"{seconds / sum(s['megapixels'] for s in method['sets'].values()):.2f}" if seconds else ""

    table("Standard deviation over the images, affine PSNR / SSIM", spread, ("seconds per megapixel", speed))

    free = {n: m for n, m in methods.items() if "parameter" in m}
    print()
    for figure, unit, digits in (("psnr_affine", " dB", 2), ("ssim_affine", "", 3)):
        best = max(free, key=lambda n: mean_of_sets(free[n], figure))
        print(
            f"Best training-free {figure.replace('_', ' ')}, mean of sets: {best}, "
            f"{mean_of_sets(free[best], figure):.{digits}f}{unit}"
        )
        for name, method in methods.items():
            if not method.get("restored"):
                continue
            ours, theirs = ([i[figure] for i in images_of(m)] for m in (method, free[best]))
            d = np.subtract(ours, theirs)
            by_set = ", ".join(
                f"{label} {set_mean(method, label, figure) - set_mean(free[best], label, figure):+.{digits}f}"
                for label in SETS
            )
            print(
                f"  {name} against it, image by image: {d.mean():+.{digits}f} ± {d.std():.{digits}f}{unit}, "
                f"better on {np.sum(d > 0)} of {d.size}; by set: {by_set}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, metavar="DATA")
    parser.add_argument("--restored", nargs="+", default=[], metavar="NAME=DIR", help="images restored elsewhere")
    parser.add_argument("--mdr", type=pathlib.Path, metavar="PATH", help="the mdr program")
    parser.add_argument("--model", type=pathlib.Path, metavar="FILE", help="instead of mdr's built-in model")
    parser.add_argument("--scale", choices=("own", "input"), default="input", help="scale of the plain figures")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/rivals"), metavar="DIR")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write every figure of every image")
    args = parser.parse_args()
    if any("=" not in spec for spec in args.restored):
        parser.error("--restored takes NAME=DIR")
    methods = evaluate(args)
    print_tables(methods, args.scale)
    if args.json:
        args.json.write_text(json.dumps(methods, indent=1) + "\n")


if __name__ == "__main__":
    main()
