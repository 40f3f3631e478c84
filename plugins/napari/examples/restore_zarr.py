"""Restores a zarr array block by block on a dask cluster: one that runs already (--scheduler), or processes on this
machine. No machine ever holds the whole image; this one, which takes the statistics, holds a plane of it.

    python restore_zarr.py noisy.zarr restored.zarr --workers 4
    python restore_zarr.py noisy.zarr restored.zarr --scheduler tcp://head-node:8786 --axes TCZYX
"""

from __future__ import annotations

import argparse
import os

import dask.array as da
from distributed import Client, LocalCluster
from napari_mdr import Model, restore_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="zarr array")
    parser.add_argument("output", help="zarr array to be written")
    parser.add_argument("--axes", help="one letter out of TCZYX for each axis")
    parser.add_argument("--model", help=".onnx file or bioimage.io package; default: the built-in model")
    parser.add_argument("--task", default="denoise", help="task of the built-in model")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--block", type=int, default=1024, help="side of a block in pixels")
    parser.add_argument("--pixel-size", type=float, nargs=2, metavar=("Z_STEP", "PIXEL"), help="in µm, for axial")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", help="address of a running cluster")
    where.add_argument("--workers", type=int, default=2, help="processes on this machine")
    options = parser.parse_args()

    if os.path.exists(options.output) and not options.overwrite:
        parser.error(f"{options.output} exists already; choose another name, or --overwrite")
    model = Model.load(options.model) if options.model else Model.builtin(options.task)
    pixel_size = tuple(options.pixel_size) if options.pixel_size else None
    cluster = options.scheduler or LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        image = da.from_zarr(options.input)
        restored = restore_blocks(image, model, axes=options.axes, pixel_size=pixel_size, block=options.block)
        print(f"{restored.npartitions} blocks on {len(client.scheduler_info()['workers'])} processes")
        # zarr writes whole chunks: neighbouring blocks must not share one.
        restored.rechunk(restored.chunksize).to_zarr(options.output, overwrite=options.overwrite)


if __name__ == "__main__":
    main()
