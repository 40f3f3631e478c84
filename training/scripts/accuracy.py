"""How far mdr's own convolutions are from onnxruntime's on real images, with and without hot pixels.

    python accuracy.py DATA --mdr target/release/mdr

DATA holds bench10. Every built-in model restores the degraded test images of its task (axial ones as slices), by mdr
and by onnxruntime from the same normalised image; then again with hot pixels: 20 of them, 200 times the image's 99.8th
percentile. Prints, for each model, the largest difference of a pixel over all images, in units of the range of
onnxruntime's result, for mdr as it is and with --precise. Needs numpy, onnxruntime, tifffile.
"""

import argparse
import pathlib
import subprocess
import tempfile

import numpy as np
import onnxruntime
import tifffile

MODELS = pathlib.Path(__file__).resolve().parents[2] / "src" / "models"
TASKS = ("denoise", "axial", "super-resolve")
MULTIPLE = 8


def by_onnxruntime(session, image):
    """Normalised as the built-in models ask for: percentiles 2 and 99.8 become 0 and 1."""
    low, high = np.percentile(image, (2, 99.8))
    padded = [(0, -side % MULTIPLE) for side in image.shape]
    normalised = ((np.pad(image, padded, "reflect") - low) / (high - low)).astype(np.float32)
    (result,) = session.run(None, {session.get_inputs()[0].name: normalised[None, None]})
    rows, columns = image.shape
    return result[0, 0, :rows, :columns] * (high - low) + low


def by_mdr(mdr, folder, task, image, options):
    tifffile.imwrite(folder / "in.tif", image.astype(np.float32))
    command = [mdr, "restore", folder / "in.tif", "-o", folder / "out.tif", "--task", task, "--force", "--quiet"]
    subprocess.run([*command, *options, *(["--slices"] if task == "axial" else [])], check=True)
    return tifffile.imread(folder / "out.tif")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--mdr", required=True)
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    print("largest difference / range     images    plain  precise | hot pixels: plain  precise")
    for task in TASKS:
        session = onnxruntime.InferenceSession(MODELS / f"{task}.onnx", providers=["CPUExecutionProvider"])
        files = sorted((arguments.data / "bench10" / task / "test").rglob("low/*.tif"))
        if not files:
            raise SystemExit(f"no test images of {task} below {arguments.data}")
        worst = np.zeros(4)
        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                plain = tifffile.imread(file).astype(np.float32)
                plain = plain.reshape(-1, *plain.shape[-2:])[0]
                hot = plain.copy()
                hot[rng.integers(0, hot.shape[0], 20), rng.integers(0, hot.shape[1], 20)] = 200 * np.percentile(
                    hot, 99.8
                )
                expected = [by_onnxruntime(session, image) for image in (plain, hot)]
                found = [
                    by_mdr(arguments.mdr, pathlib.Path(folder), task, image, options)
                    for image in (plain, hot)
                    for options in ([], ["--precise"])
                ]
                differences = [
                    np.abs(found[i] - expected[i // 2]).max() / np.ptp(expected[i // 2]) for i in range(len(found))
                ]
                worst = np.maximum(worst, differences)
        print(
            f"{task:29} {len(files):7}  {worst[0]:.1e}  {worst[1]:.1e} |           {worst[2]:.1e}  {worst[3]:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
