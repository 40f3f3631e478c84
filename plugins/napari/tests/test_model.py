"""numpy in, numpy out: equal to the command line, whatever the array looks like; threads; blocks on a cluster."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import mean_model, noisy, upsampling_model
from napari_mdr import MdrError, Model, fit, output_info, restore, restore_blocks

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("axes", "shape"), [("YX", (90, 70)), ("ZYX", (3, 60, 70)), ("TZCYX", (2, 2, 2, 40, 50))])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_equal_to_the_command_line(command_line, axes, shape, dtype):
    image = noisy(*shape).astype(dtype)
    assert restore(image, axes=axes).tobytes() == command_line(image, axes).tobytes()


def test_the_type_of_the_source(command_line):
    image = noisy(50, 60)
    restored = restore(image, dtype=image.dtype)
    assert restored.dtype == np.uint16
    assert restored.tobytes() == command_line(image, "YX", "--dtype", "same").tobytes()


def test_facts():
    model = Model.builtin("denoise")
    assert model.info["task"] == "denoise"
    assert model.info in Model.builtins()
    assert len(model.info["sha256"]) == 64
    info = output_info(model, "ZYX", (3, 20, 30), pixel_size=(2.0, 0.5))
    assert info["shape"] == [3, 20, 30]
    assert (info["pixel_size_um"], info["z_step_um"]) == (0.5, 2.0)


def test_the_task_chooses_the_built_in_model():
    stack = noisy(3, 30, 40)
    by_task = restore(stack, task="axial", pixel_size=(0.4, 0.1))
    assert np.array_equal(by_task, restore(stack, "axial", pixel_size=(0.4, 0.1)))
    assert by_task.shape == (9, 30, 40)
    with pytest.raises(MdrError, match="is for denoise"):
        restore(stack, "denoise", task="axial", pixel_size=(0.4, 0.1))


def test_pictures_are_not_taken_for_stacks():
    picture = noisy(30, 40, 3)
    for call in (restore, restore_blocks, fit):
        with pytest.raises(ValueError, match="RGB"):
            call(picture)
    assert np.array_equal(restore(picture, axes="YXC")[..., 1], restore(picture[..., 1]))


def test_what_numpy_makes_an_array_of():
    image = noisy(20, 30)
    assert np.array_equal(restore(image.astype(float).tolist()), restore(image.astype(np.float32)))


def test_a_model_can_be_pickled(tmp_path):
    image = noisy(30, 30)
    path = tmp_path / "mean.onnx"
    path.write_bytes(mean_model())
    for model in (Model.builtin(), Model.load(path), Model.from_bytes(mean_model(), "mean")):
        again = pickle.loads(pickle.dumps(model))
        assert again.info["sha256"] == model.info["sha256"]
        assert np.array_equal(restore(image, again), restore(image, model))


@pytest.mark.parametrize(("axes", "shape"), [("YX", (40, 50)), ("TZCYX", (2, 3, 2, 40, 50)), ("XYC", (40, 50, 2))])
def test_in_place(axes, shape):
    image = noisy(*shape).astype(np.float32)
    expected = restore(image, axes=axes)
    assert restore(image, axes=axes, out=image) is image
    assert np.array_equal(image, expected)


def test_out_that_overlaps_the_image():
    buffer = noisy(5, 40, 50).astype(np.float32)
    before = buffer.copy()
    for image, out in (
        (buffer[:-1], buffer[1:]),
        (buffer[1:], buffer[:-1]),
        (buffer, buffer[::-1]),
        (buffer[0], buffer[0, ::-1]),
        (buffer.view(np.uint8)[..., :50], buffer[..., :50]),
    ):
        with pytest.raises(ValueError, match="overlaps"):
            restore(image, axes="TYX"[-image.ndim :], out=out)
    assert np.array_equal(buffer, before)
    # Side by side, none of them within the other.
    pair = noisy(3, 40, 100).astype(np.float32)
    expected = restore(pair[..., ::2].copy())
    restore(pair[..., ::2], out=pair[..., 1::2])
    assert np.array_equal(pair[..., 1::2], expected)


def test_out_that_is_read_only(tmp_path):
    image = noisy(40, 50)
    np.save(tmp_path / "out.npy", np.zeros((40, 50), np.float32))
    content = bytes(4 * 40 * 50)
    for out in (
        np.load(tmp_path / "out.npy", mmap_mode="r"),
        np.frombuffer(content, np.float32).reshape(40, 50),
        np.broadcast_to(np.float32(0), (40, 50)),
    ):
        with pytest.raises(ValueError, match="read-only"):
            restore(image, out=out)
        assert not out.any()


def test_threads_share_a_model():
    model, images = Model.builtin(), [noisy(64, 64, seed=seed) for seed in range(4)]
    alone = [restore(image, model) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: restore(image, model), images))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_gil_is_released():
    ended = threading.Event()
    steps = []

    def count():
        while not ended.is_set():
            steps.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    started = time.monotonic()
    restore(noisy(1024, 1024), tile=2048, threads=1)
    stopped = time.monotonic()
    ended.set()
    thread.join()
    inside = [step for step in steps if started < step < stopped]
    assert len(inside) > 20


def test_statistics_of_the_whole_serve_a_part():
    image = noisy(3, 64, 64)
    image[1] *= 5
    whole = restore(image)
    fitted = fit(image)
    assert not np.array_equal(restore(image[1]), whole[1])
    assert np.array_equal(restore(image[1], fitted=fitted), whole[1])


def blocks_cases():
    yield "plane", noisy(300, 420), "YX", {}, None
    yield "series of channels", noisy(2, 2, 150, 220), "TCYX", {}, None
    yield "one channel", noisy(2, 150, 220), "CYX", {"channel": 1}, None
    yield "twice the pixels", noisy(150, 220), "YX", {}, upsampling_model
    yield "axial", noisy(5, 150, 220), "ZYX", {"task": "axial", "pixel_size": (3.0, 1.0)}, lambda: mean_model(None)


def assert_alike(found, expected):
    """Equal but for rounding, which depends on where a pixel lies in the tile that the network gets."""
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    ("image", "axes", "options", "model"), [c[1:] for c in blocks_cases()], ids=[c[0] for c in blocks_cases()]
)
def test_blocks_equal_the_whole(image, axes, options, model):
    import dask.array as da

    model = Model.from_bytes(model(), "test") if model else Model.builtin()
    image[..., :100, :] *= 3
    whole = restore(image, model, axes=axes, **options)
    for source in (image, da.from_array(image, chunks=64)):
        blocks = restore_blocks(source, model, axes=axes, block=96, **options)
        assert blocks.shape == whole.shape and blocks.dtype == whole.dtype
        assert blocks.npartitions > 3
        assert_alike(blocks.compute(scheduler="sync"), whole)


def test_a_cluster_of_three_processes_by_the_example(tmp_path):
    import zarr

    image = noisy(2, 300, 420)
    stored = zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(1, 128, 128), dtype="u2")
    stored[:] = image
    command = [
        sys.executable,
        str(EXAMPLES / "restore_zarr.py"),
        "in.zarr",
        "out.zarr",
        "--workers",
        "3",
        "--block",
        "128",
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "3 processes" in ended.stdout
    assert_alike(zarr.open_array(str(tmp_path / "out.zarr"))[:], restore(image))
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and "out.zarr exists already" in again.stderr
