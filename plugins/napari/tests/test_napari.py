"""The plug-in in a real napari: its menu, what becomes of layers, cancelling, errors."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from conftest import Stored, mean_model, menu_action, noisy, upsampling_model
from napari_mdr import MdrError, Model, _layers, restore
from napari_mdr._commands import TITLES, run
from napari_mdr._layers import restored_layer, source
from napari_mdr._run import Run

PATH = ("Filter", "Restore", "Denoise")


def test_menu_item_restores_as_the_command_line_does(make_napari_viewer, qtbot, command_line):
    viewer = make_napari_viewer(show=True)
    image = noisy(3, 96, 120)
    viewer.add_image(image, name="cells", scale=(2, 0.5, 0.5), translate=(1, 2, 3), units="µm", colormap="magma")
    action = menu_action(viewer, *PATH)
    assert action.isEnabled()
    action.trigger()
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=30_000)

    layer = viewer.layers[1]
    assert layer.name == "cells [mdr denoise]"
    assert layer.data.dtype == np.float32
    assert layer.data.tobytes() == command_line(image, "ZYX").tobytes()
    source = viewer.layers[0]
    assert tuple(layer.scale) == (2, 0.5, 0.5)
    assert tuple(layer.translate) == (1, 2, 3)
    assert layer.units == source.units
    assert layer.axis_labels == source.axis_labels
    assert layer.colormap.name == "magma"
    note = layer.metadata["mdr"]
    assert note["sha256"] == Model.builtin().info["sha256"]
    assert note["axes"] == "ZYX"
    json.dumps(note)


@pytest.mark.parametrize("task", TITLES)
def test_each_task_restores_as_the_command_line_does(make_napari_viewer, qtbot, command_line, task):
    viewer = make_napari_viewer(show=True)
    image = noisy(4, 70, 90)
    viewer.add_image(image, name="cells", scale=(1.25, 0.5, 0.5), units="µm")
    menu_action(viewer, "Filter", "Restore", TITLES[task]).trigger()
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=60_000)
    sizes = ["--z-step", "1.25", "--pixel-size", "0.5"] if task == "axial" else []
    expected = command_line(image, "ZYX", "--task", task, *sizes)
    layer = viewer.layers[1]
    assert layer.name == f"cells [mdr {task}]"
    assert layer.data.shape == expected.shape
    assert layer.data.tobytes() == expected.tobytes()
    assert layer.metadata["mdr"]["task"] == task


def test_menu_item_is_off_without_an_image_layer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    assert not menu_action(viewer, *PATH).isEnabled()
    viewer.add_image(noisy(64, 64))
    assert menu_action(viewer, *PATH).isEnabled()
    viewer.add_points([[1, 1]])
    assert not menu_action(viewer, *PATH).isEnabled()


def notifications() -> list[str]:
    from napari.utils.notifications import notification_manager

    return [record.message for record in notification_manager.records]


def test_cancel_in_the_activity_dock(make_napari_viewer, qtbot):
    from napari.utils import progress

    viewer = make_napari_viewer(show=True)
    viewer.add_image(noisy(40, 256, 256))
    menu_action(viewer, *PATH).trigger()
    bars = [bar for bar in progress._all_instances if str(bar).startswith("Denoise")]
    assert len(bars) == 1
    qtbot.waitUntil(lambda: bars[0].n > 0, timeout=30_000)
    before = bars[0].n
    bars[0].cancel()
    qtbot.waitUntil(lambda: not Run._alive, timeout=10_000)
    assert before < bars[0].total
    assert len(viewer.layers) == 1, "a cancelled run leaves no layer"
    assert bars[0] not in progress._all_instances


def test_errors_are_notifications_in_the_engines_words(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.zeros((32, 32, 3), np.uint8), rgb=True, name="picture")
    menu_action(viewer, *PATH).trigger()
    assert any("picture is an RGB picture" in message for message in notifications())
    assert len(viewer.layers) == 1

    run(viewer, viewer.add_image(noisy(4, 32, 32)), "denoise", {"memory_limit_mb": 1})
    qtbot.waitUntil(lambda: any("memory limit 1 MB" in message for message in notifications()), timeout=10_000)
    assert len(viewer.layers) == 2


def test_steps_that_a_model_does_not_know_are_named(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    layer = viewer.add_image(noisy(3, 24, 24), scale=(4, 0.5, 0.5), units="µm", name="coarse")
    run(viewer, layer, "axial")
    expected = "coarse [mdr axial]: planes lie 8 pixels apart, and mdr axial was trained with 2 to 6"
    qtbot.waitUntil(lambda: any(message.startswith(expected) for message in notifications()), timeout=10_000)
    layer = viewer.add_image(noisy(3, 24, 24), scale=(1, 0.5, 0.5), units="µm", name="fine")
    run(viewer, layer, "axial")
    qtbot.waitUntil(lambda: "fine [mdr axial]" in viewer.layers, timeout=10_000)
    assert not any("fine [mdr axial]" in message for message in notifications())


def test_an_image_that_cannot_be_read_ends_the_run(make_napari_viewer, qtbot):
    import dask.array as da

    def broken(block):
        if block.size:
            raise RuntimeError("the disk is gone")
        return block

    viewer = make_napari_viewer(show=True)
    lazy = da.zeros((2, 32, 32), chunks=(1, 32, 32), dtype="u2").map_blocks(broken, meta=np.empty((0, 0, 0), "u2"))
    layer = viewer.add_image(noisy(2, 32, 32))
    image = source(layer)
    image.data = lazy
    ended = []
    task = Run("Denoise", lambda progress: restored_layer(image, Model.builtin(), None, progress))
    task.ended.connect(lambda: ended.append(True))
    task.start()
    qtbot.waitUntil(lambda: bool(ended), timeout=10_000)
    assert any("RuntimeError: the disk is gone" in message for message in notifications())
    assert not Run._alive


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="files of this system cannot be sparse, or reserved")
def test_a_result_in_a_file_has_its_room_from_the_start(make_napari_viewer, qtbot, monkeypatch):
    monkeypatch.setattr(_layers, "MAPPED_FROM_BYTES", 0)
    reserve, rooms = os.posix_fallocate, []

    def noted(file, start, size):
        reserve(file, start, size)
        rooms.append((size, os.fstat(file).st_blocks * 512))

    monkeypatch.setattr(os, "posix_fallocate", noted)
    result = _layers.empty((3, 512, 512))
    assert isinstance(result, np.memmap)
    ((size, room),) = rooms
    assert size == result.nbytes <= room

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    viewer = make_napari_viewer(show=True)
    run(viewer, viewer.add_image(noisy(3, 64, 64), name="cells"), "denoise")
    qtbot.waitUntil(lambda: any("No space left" in message for message in notifications()), timeout=10_000)
    assert len(viewer.layers) == 1


def layer_cases():
    image = noisy(3, 60, 70)
    yield "2-D", image[0], {}, "YX", image[0]
    yield "8 bit", image.astype(np.uint8), {}, "ZYX", image
    yield "float64", image.astype(float), {}, "ZYX", image
    yield "int32", image.astype(np.int32), {}, "ZYX", image
    yield "big-endian", image.astype(">u2"), {}, "ZYX", image
    yield "every second row, backwards", noisy(3, 120, 70)[:, ::-2], {}, "ZYX", noisy(3, 120, 70)[:, ::-2]
    yield (
        "transposed",
        image.transpose(1, 2, 0),
        {"axis_labels": ("y", "x", "c"), "rgb": False},
        "YXC",
        image.transpose(1, 2, 0),
    )
    yield "read-only", np.broadcast_to(image[0], (2, 60, 70)), {}, "ZYX", np.stack([image[0]] * 2)
    yield "time series", image, {"axis_labels": ("time", "y", "x")}, "TYX", image
    many = noisy(2, 3, 2, 40, 50)
    many[:, 1] *= 5
    yield "five axes", many, {}, "TCZYX", many


@pytest.mark.parametrize(
    ("data", "properties", "axes", "plain"), [c[1:] for c in layer_cases()], ids=[c[0] for c in layer_cases()]
)
def test_what_a_layer_may_be(data, properties, axes, plain):
    from napari.layers import Image

    layer = Image(data, name="image", **properties)
    image = source(layer)
    assert image.axes == axes
    restored, found, kind = restored_layer(image, Model.builtin())
    assert kind == "image"
    assert restored.shape == data.shape
    assert np.array_equal(restored, restore(np.ascontiguousarray(plain), axes=axes))
    new = Image(restored, **found)
    assert new.axis_labels == layer.axis_labels
    assert new.contrast_limits[0] < new.contrast_limits[1]


def test_lazy_arrays_are_never_whole_in_memory():
    import dask.array as da
    from napari.layers import Image

    image = noisy(6, 64, 80)
    seen = []

    def load(block_info):
        at = block_info[None]["array-location"]
        seen.append(tuple(at[0]))
        return image[slice(*at[0])]

    lazy = da.map_blocks(load, chunks=((1,) * 6, (64,), (80,)), dtype=image.dtype, meta=np.empty((0, 0, 0), "u2"))
    expected = restore(image)
    seen.clear()
    restored, *_ = restored_layer(source(Image(lazy, contrast_limits=(0, 99))), Model.builtin())
    assert np.array_equal(restored, expected)
    assert all(stop - start == 1 for start, stop in seen)
    assert {start for start, _ in seen} == set(range(6))


def test_zarr_in_and_out(tmp_path):
    import zarr
    from napari.layers import Image

    image = noisy(4, 64, 80)
    stored = zarr.create_array(str(tmp_path / "in.zarr"), shape=image.shape, chunks=(1, 64, 80), dtype="u2")
    stored[:] = image
    restored, *_ = restored_layer(source(Image(stored, contrast_limits=(0, 99))), Model.builtin())
    assert np.array_equal(restored, restore(image))
    out = zarr.create_array(str(tmp_path / "out.zarr"), shape=image.shape, chunks=(1, 64, 80), dtype="f4")
    restore(stored, out=out)
    assert np.array_equal(out[:], restored)


def test_a_part_of_what_is_not_in_memory_is_read_when_it_is_restored():
    from napari.layers import Image

    image = noisy(3, 4, 40, 50)
    layer = source(Image(image, axis_labels=("z", "c", "y", "x")))
    layer.data = Stored(image)
    part = layer.part({"C": (1, 3)}).part({"Z": (1, 3)}).plane({"C": 1})
    assert not layer.data.read
    restored, *_ = restored_layer(part, Model.builtin())
    assert set(layer.data.read) == {40 * 50}
    assert np.array_equal(restored, restore(image[1:, 2:3], axes="ZCYX"))


def test_multiscale_is_restored_at_full_resolution():
    from napari.layers import Image

    image = noisy(64, 96)
    layer = Image([image, image[::2, ::2]], multiscale=True)
    restored, *_ = restored_layer(source(layer), Model.builtin())
    assert np.array_equal(restored, restore(image))


def test_axial_output_is_isotropic_and_lies_where_the_input_lies(tmp_path, command_line):
    from napari.layers import Image

    model = Model.from_bytes(mean_model(None), "mean")
    image = noisy(8, 40, 44)
    layer = Image(image, scale=(2, 0.5, 0.5), translate=(3, 1, 1), units="µm")
    restored, found, _ = restored_layer(source(layer), model, {"task": "axial"})
    (tmp_path / "mean.onnx").write_bytes(mean_model(None))
    options = ["--model", str(tmp_path / "mean.onnx"), "--task", "axial", "--z-step", "2", "--pixel-size", "0.5"]
    assert np.array_equal(restored, command_line(image, "ZYX", *options))
    assert restored.shape == (29, 40, 44)
    assert found["scale"] == (0.5, 0.5, 0.5)
    assert found["translate"] == (3, 1, 1)
    # Nanometres, and no unit at all.
    nm = Image(image, scale=(2000, 500, 500), units="nm")
    assert restored_layer(source(nm), model, {"task": "axial"})[1]["scale"] == (500, 500, 500)
    bare = Image(image, scale=(2, 0.5, 0.5))
    assert restored_layer(source(bare), model, {"task": "axial"})[1]["scale"] == (0.5, 0.5, 0.5)
    with pytest.raises(MdrError, match="pixel size and the z step"):
        restored_layer(source(Image(image)), model, {"task": "axial"})
    with pytest.raises(ValueError, match="square"):
        restored_layer(source(Image(image, scale=(2, 1, 0.5), units="µm")), model, {"task": "axial"})


def test_twice_the_pixels_keep_the_edges():
    from napari.layers import Image

    layer = Image(noisy(20, 30), scale=(0.5, 0.5), translate=(10, 20), units="µm")
    restored, found, _ = restored_layer(source(layer), Model.from_bytes(upsampling_model(), "twice"))
    assert restored.shape == (40, 60)
    assert found["scale"] == (0.25, 0.25)
    assert found["translate"] == (9.875, 19.875)
    new = Image(restored, **found)
    # The extent of a layer runs from edge to edge in napari's world of pixel centres.
    np.testing.assert_allclose(new.extent.world[0] - 0.125, layer.extent.world[0] - 0.25)
    np.testing.assert_allclose(new.extent.world[1] + 0.125, layer.extent.world[1] + 0.25)


def test_what_is_turned_and_sheared_lies_where_its_source_lies():
    from napari.layers import Image

    affine = np.array([[1, 0.1, 0, 5], [0, 1, 0.2, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    turned = {"rotate": (10, 20, 30), "shear": (0.1, 0.2, 0.3), "affine": affine}
    layer = Image(noisy(3, 20, 30), scale=(2, 0.5, 0.5), translate=(1, 2, 3), **turned)
    image = source(layer)
    model = Model.from_bytes(upsampling_model(), "twice")
    restored, found, _ = restored_layer(image.plane({"Z": 2}), model)
    new = Image(restored, **found)
    # The upper left of the four pixels that pixel 4, 5 has become.
    np.testing.assert_allclose(new.data_to_world((0, 8, 10)), layer.data_to_world((2, 3.75, 4.75)))
    np.testing.assert_allclose(new.data_to_world((0, 9, 11)), layer.data_to_world((2, 4.25, 5.25)))


def test_a_chosen_channel_keeps_its_place():
    from napari.layers import Image

    image = noisy(3, 40, 50)
    layer = Image(image, axis_labels=("c", "y", "x"))
    restored, found, _ = restored_layer(source(layer), Model.builtin(), {"channel": 2})
    assert np.array_equal(restored, restore(image, axes="CYX")[2:])
    assert found["translate"] == (2, 0, 0)


def test_the_run_can_be_repeated_from_the_metadata(tmp_path):
    from napari.layers import Image

    path = tmp_path / "foreign.onnx"
    path.write_bytes(mean_model(None))
    layer = Image(noisy(5, 40, 44), scale=(2, 0.5, 0.5), units="µm")
    part = source(layer).part({"Z": (1, 5)})
    for model, options in (
        (Model.builtin(), {"tile": 128, "channel": None}),
        (Model.builtin("axial"), {"pixel_size_um": 1.0}),
        (Model.load(path), {"task": "axial"}),
    ):
        first, found, _ = restored_layer(part, model, options)
        note = json.loads(json.dumps(found["metadata"]["mdr"]))
        built_in = note["model_source"] == "built-in"
        again = Model.builtin(note["task"]) if built_in else Model.load(note["model_source"])
        assert again.info["sha256"] == note["sha256"]
        data = layer.data[tuple(slice(*note["region"].get(letter, (None,))) for letter in note["axes"])]
        assert np.array_equal(first, restore(data, again, axes=note["axes"], **note["options"]))


@pytest.mark.parametrize(("key", "axes"), [("noisy", "YX"), ("anisotropic", "ZYX"), ("blurred", "YX")])
def test_samples_are_opened_and_understood(make_napari_viewer, key, axes):
    viewer = make_napari_viewer()
    viewer.open_sample("napari-mdr", key)
    layer = viewer.layers[0]
    image = source(layer)
    assert "simulated" in layer.name
    assert image.axes == axes
    assert image.pixel_size_um == pytest.approx(0.1)
    assert image.z_step_um == (pytest.approx(0.4) if "Z" in axes else None)
    assert layer.data.std() > 0


def test_the_manifest_offers_what_is_built_in():
    from npe2 import PluginManager

    manifest = PluginManager.instance().get_manifest("napari-mdr")
    commands = {item.command for item in manifest.contributions.menus["napari-mdr/restore"]}
    tasks = {model["task"].replace("-", "_") for model in Model.builtins()}
    assert commands == {f"napari-mdr.{task}" for task in tasks} | {"napari-mdr.widget"}
