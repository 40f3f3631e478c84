"""Throughput and cold start of `mdr restore` beside its own network and onnxruntime running the same .onnx file.

    python throughput.py --mdr target/release/mdr [--model FILE] [--side 4096] [--repeats 3] [--threads N]

Makes a 16-bit image of SIDE x SIDE pixels (simulated: filtered noise), then runs in turn

  its network  as `mdr info --profile SIDE` times its steps
  mdr          the whole process: read TIFF, normalise, tile, restore, blend, write TIFF
  onnxruntime  the network alone on tiles that are in memory: 512 x 512, without overlap, normalisation or files

and prints the median seconds of each, the ratios round by round, megapixels per second, and the peak memory of mdr.
Then the cold start: the whole process on 256 x 256 pixels, median of 15; and one process for a folder of 100 images of
512 x 512 pixels beside as many times its network. Needs numpy, onnxruntime, tifffile.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
import tifffile

TILE = 512
# Small images of a folder.
IMAGES = 100
SMALL = 512
# Before every run: threads of who ran before may still be waiting for more work, which takes a processor each.
PAUSE = 0.2


def micrograph(side, seed=0):
    """Band-limited noise over a background, as 16-bit."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    image = np.fft.irfft2(spectrum * np.exp(-((fy**2 + fx**2) * 400)), s=(side, side))
    image = 300 * np.clip(image / image.std(), 0, None) + 20
    return rng.poisson(image).astype(np.uint16)


def run(command):
    """Seconds of a whole process."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def peak_memory(command):
    """Most MB of memory that a process has. Who asks takes from its time, so this is a run of its own."""
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_peak(process.pid))
        time.sleep(0.005)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return peak


def resident_peak(pid):
    """MB of memory that the process has had at most. (The `ru_maxrss` of a child counts the memory of its parent.)"""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak[0]) / 1024 if peak else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mdr", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, default="src/models/denoise.onnx")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        image = micrograph(args.side)
        tifffile.imwrite(folder / "large.tif", image)
        tifffile.imwrite(folder / "small.tif", micrograph(256))
        output = folder / "out.tif"
        restore = [args.mdr, "restore", "--model", args.model, "--threads", str(args.threads), "-o", output]

        def ours_on(name, measure=run):
            # A new file, as the system takes its time to replace one.
            output.unlink(missing_ok=True)
            return measure([*restore, folder / name])

        def onnx():
            start = time.perf_counter()
            for y in range(0, args.side, TILE):
                for x in range(0, args.side, TILE):
                    session.run(None, {name: image[None, None, y : y + TILE, x : x + TILE].astype(np.float32) / 1000})
            return time.perf_counter() - start

        def network(side):
            profile = [args.mdr, "info", args.model, "--profile", str(side), "--threads", str(args.threads)]
            steps = subprocess.run(profile, check=True, capture_output=True, text=True).stdout
            return float(steps.splitlines()[-1].split()[0]) / 1000

        memory = ours_on("large.tif", peak_memory)
        ours, alone, theirs = [], [], []
        for _ in range(args.repeats):
            # The network first, whose time does not count new memory: a virtual machine whose memory others have given
            # back to its host waits for it several times as long as a machine of one's own.
            time.sleep(PAUSE)
            alone.append(network(args.side))
            ours.append(ours_on("large.tif"))
            theirs.append(onnx())
        pixels = args.side**2 / 1e6
        print(f"{args.side} x {args.side}, 16 bit, {args.threads} threads, medians of {args.repeats}")
        for label, times in (("mdr", ours), ("its network", alone), ("onnxruntime", theirs)):
            seconds = statistics.median(times)
            print(f"{label:12} {seconds:8.2f} s {pixels / seconds:8.2f} megapixels/s")
        for label, times in (("its network", alone), ("onnxruntime", theirs)):
            ratio = statistics.median(a / b for a, b in zip(ours, times, strict=True))
            print(f"mdr takes {ratio:.2f} times as long as {label}")
        print(f"peak memory of mdr {memory:.0f} MB")
        cold = [ours_on("small.tif") for _ in range(15)]
        print(
            f"cold start, 256 x 256: median {statistics.median(cold):.3f} s (of 15, {min(cold):.3f} to {max(cold):.3f})"
        )
        inputs, results = folder / "many", folder / "results"
        inputs.mkdir()
        small = micrograph(SMALL)
        for number in range(IMAGES):
            tifffile.imwrite(inputs / f"{number:03}.tif", np.roll(small, number, 1))
        alone, ours = [], []
        for _ in range(args.repeats):
            time.sleep(PAUSE)
            alone.append(network(SMALL))
            shutil.rmtree(results, ignore_errors=True)
            ours.append(run([*restore[:-1], results, inputs]) / IMAGES)
        ratio = statistics.median(a / b for a, b in zip(ours, alone, strict=True))
        print(
            f"{IMAGES} images of {SMALL} x {SMALL}: {1000 * statistics.median(ours):.1f} ms each,"
            f" {ratio:.2f} times as long as its network"
        )


if __name__ == "__main__":
    main()
