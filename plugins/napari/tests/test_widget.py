"""The widget in a real napari: what it shows, its preview, its runs, and that the GUI stays alive meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Stored, mean_model, menu_action, mixing_model, noisy
from napari.layers import Image
from napari_mdr import Model, _preview, fit, restore
from napari_mdr._commands import run
from napari_mdr._layers import source
from napari_mdr._preview import LARGEST_SIDE, Preview
from napari_mdr._run import Run
from napari_mdr._widget import PREVIEW
from qtpy.QtCore import QThreadPool, QTimer


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


def assert_alike(found, expected):
    """Equal but for rounding, which depends on where a pixel lies in the tile that the network gets."""
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


def open_widget(viewer):
    """By its menu item, as a user does."""
    menu_action(viewer, "Filter", "Restore", "Restore settings").trigger()
    for dock in viewer.window._dock_widgets.values():
        widget = getattr(dock, "inner_widget", lambda: None)()
        if type(widget).__name__ == "RestoreWidget":
            return widget
    raise AssertionError("no widget was opened")


def finished(qtbot, widget):
    qtbot.waitUntil(lambda: widget._run is None, timeout=60_000)


def test_shows_the_image_and_the_model(viewer, qtbot):
    image = viewer.add_image(noisy(4, 64, 80), name="stack", scale=(2, 0.5, 0.5), units="µm")
    viewer.add_points([[1, 1, 1]])
    widget = open_widget(viewer)
    assert widget.layer is image
    assert [widget.image.itemText(i) for i in range(widget.image.count())] == ["stack"]
    assert widget.axes.text() == "ZYX"
    assert widget.understood.text() == "4 Z × 64 Y × 80 X"
    assert widget.pixel_size.placeholderText() == "0.5"
    assert widget.z_step.placeholderText() == "2"
    facts = Model.builtin().info
    assert facts["name"] in widget.facts.text()
    assert facts["trained_on"][:30] in widget.facts.text()
    # Those of the command line.
    assert f"{facts['metrics']['restored']['psnr_affine']:.2f} dB" in widget.facts.text()
    # Other axes, and axes that are none.
    widget.axes.setText("CYX")
    widget.axes.editingFinished.emit()
    assert widget.understood.text() == "4 C × 64 Y × 80 X"
    assert [widget.channel.itemText(i) for i in range(5)] == ["each on its own", "0", "1", "2", "3"]
    widget.axes.setText("QYX")
    widget.axes.editingFinished.emit()
    assert "expected 3 different letters" in widget.understood.text()


def test_run_equals_the_numpy_interface(viewer, qtbot):
    image = noisy(3, 64, 80)
    image[2] *= 4
    viewer.add_image(image, name="stack", scale=(2, 0.5, 0.5), units="µm")
    widget = open_widget(viewer)
    widget.tile.setValue(128)
    widget.run_button.click()
    finished(qtbot, widget)
    assert np.array_equal(viewer.layers["stack [mdr denoise]"].data, restore(image, tile=128))
    assert viewer.layers["stack [mdr denoise]"].metadata["mdr"]["options"]["tile"] == 128
    assert widget.status.text() == "done"
    assert widget.run_button.isEnabled()

    widget.image.setCurrentText("stack")
    widget.ensemble.setChecked(True)
    widget.run_button.click()
    finished(qtbot, widget)
    assert np.array_equal(viewer.layers[-1].data, restore(image, tile=128, self_ensemble=True))
    assert not np.array_equal(viewer.layers[-1].data, restore(image, tile=128))
    widget.ensemble.setChecked(False)

    # One plane: where it lies in its stack, with as many axes.
    viewer.dims.set_point(0, 4.0)
    widget.image.setCurrentText("stack")
    widget.extent.setCurrentText("current plane")
    widget.run_button.click()
    finished(qtbot, widget)
    plane = viewer.layers[-1]
    assert plane.data.shape == (1, 64, 80)
    assert tuple(plane.translate) == (4, 0, 0)
    assert np.array_equal(plane.data[0], restore(image[2], tile=128))


def test_a_model_file(viewer, qtbot, tmp_path):
    path = tmp_path / "mean.onnx"
    path.write_bytes(mean_model())
    image = noisy(64, 80)
    viewer.add_image(image, name="image")
    widget = open_widget(viewer)
    widget.load_model(str(path))
    qtbot.waitUntil(lambda: "mean of 3x3" in widget.facts.text(), timeout=10_000)
    widget.run_button.click()
    finished(qtbot, widget)
    assert np.array_equal(viewer.layers[-1].data, restore(image, Model.load(path)))
    # One that is none.
    path.write_bytes(b"no model")
    widget.load_model(str(path))
    from napari.utils.notifications import notification_manager

    qtbot.waitUntil(lambda: any("mean.onnx" in r.message for r in notification_manager.records), timeout=10_000)
    assert Model.builtin().info["name"] in widget.facts.text()


def test_the_model_that_runs_is_the_one_that_is_chosen(viewer, qtbot, tmp_path, monkeypatch):
    load, gates = Model.load, {name: threading.Event() for name in ("first", "second", "damaged")}

    def slowly(path):
        gates[Path(path).stem].wait(30)
        return load(path)

    def choose(name):
        (tmp_path / f"{name}.onnx").write_bytes(b"no model" if name == "damaged" else mean_model(name=name))
        widget.load_model(str(tmp_path / f"{name}.onnx"))

    def arrived(name):
        gates[name].set()
        assert QThreadPool.globalInstance().waitForDone(30_000)
        qtbot.wait(50)

    def is_used(name):
        return f"<b>{name}</b>" in widget.facts.text() and widget.run_button.isEnabled()

    monkeypatch.setattr(Model, "load", slowly)
    viewer.add_image(noisy(32, 32))
    widget = open_widget(viewer)
    built_in = Model.builtin().info["name"]
    # While a file is loaded there is no model to run.
    choose("first")
    assert widget.facts.text() == "loading…" and widget.understood.text() == "32 Y × 32 X"
    assert not widget.run_button.isEnabled()
    widget.run()
    assert widget._run is None
    arrived("first")
    assert is_used("first")
    # Another model is chosen meanwhile: the built-in one, and a file that comes sooner.
    for late in ("second", "damaged"):
        choose(late)
        widget.task.setCurrentIndex(widget.task.findData("axial"))
        widget.task.setCurrentIndex(widget.task.findData("denoise"))
        arrived(late)
        assert is_used(built_in) and widget.model.currentText() == "built-in"
        gates[late].clear()
        choose(late)
        choose("first")
        qtbot.waitUntil(lambda: is_used("first"), timeout=30_000)
        arrived(late)
        assert is_used("first") and widget.model.currentText() == "first.onnx"
        gates[late].clear()


def test_a_foreign_model_gets_the_chosen_task(viewer, qtbot, tmp_path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(mean_model(None))
    image = noisy(6, 40, 44)
    viewer.add_image(image, name="stack")
    widget = open_widget(viewer)
    widget.load_model(str(path))
    qtbot.waitUntil(lambda: "foreign" in widget.facts.text(), timeout=10_000)
    widget.task.setCurrentIndex(widget.task.findData("axial"))
    assert "pixel size and the z step" in widget.understood.text()
    widget.pixel_size.setText("0.5")
    widget.z_step.setText("1")
    widget.z_step.editingFinished.emit()
    assert widget.understood.text() == "6 Z × 40 Y × 44 X → 11 × 40 × 44"
    widget.run_button.click()
    finished(qtbot, widget)
    assert viewer.layers[-1].data.shape == (11, 40, 44)
    assert tuple(viewer.layers[-1].scale) == (0.5, 1, 1)


def test_images_that_cannot_be_restored_are_explained(viewer, qtbot):
    widget = open_widget(viewer)
    assert "no image is open" in widget.understood.text()
    assert not widget.run_button.isEnabled()
    viewer.add_image(np.zeros((2, 2, 2, 2, 16, 16)), name="six")
    widget.image.setCurrentText("six")
    assert "6 dimensions: expected 2 to 5" in widget.understood.text()
    viewer.add_image(np.zeros((16, 16, 3), np.uint8), rgb=True, name="colours")
    widget.image.setCurrentText("colours")
    assert "RGB" in widget.understood.text()
    widget.run_button.click()
    assert widget._run is None
    viewer.layers.clear()
    assert "no image is open" in widget.understood.text()


def test_closing_the_viewer_stops_the_run(viewer, qtbot):
    viewer.add_image(noisy(60, 256, 256))
    widget = open_widget(viewer)
    widget.run_button.click()
    (run,) = Run._alive
    qtbot.waitUntil(lambda: run._report[0] > 0, timeout=30_000)
    viewer.close()
    qtbot.waitUntil(lambda: not run._worker.is_running, timeout=10_000)
    assert run._report[0] < run._report[1]
    Run._alive.clear()


@pytest.mark.parametrize("start", ["preview", "model", "run", "menu"])
def test_closing_the_viewer_just_before_a_result_arrives(viewer, qtbot, tmp_path, start):
    image = viewer.add_image(noisy(64, 64))
    widget = open_widget(viewer)
    if start == "preview":
        widget.preview.setChecked(True)
        widget._start_preview()
    elif start == "model":
        path = tmp_path / "mean.onnx"
        path.write_bytes(mean_model())
        widget.load_model(str(path))
    elif start == "run":
        widget.run()
    else:
        run(viewer, image, "denoise")
    # The thread has ended, and the GUI thread has not heard of it yet.
    assert QThreadPool.globalInstance().waitForDone(30_000)
    viewer.close()
    qtbot.wait(200)  # what is raised meanwhile fails the test
    assert not Run._alive


def test_cancel_leaves_no_layer(viewer, qtbot):
    viewer.add_image(noisy(40, 256, 256))
    widget = open_widget(viewer)
    widget.run_button.click()
    assert widget.cancel_button.isEnabled() and not widget.run_button.isEnabled()
    qtbot.waitUntil(lambda: "left" in widget.status.text(), timeout=30_000)
    asked = time.monotonic()
    widget.cancel_button.click()
    finished(qtbot, widget)
    assert time.monotonic() - asked < 10
    assert widget.status.text() == "cancelled"
    assert len(viewer.layers) == 1
    assert widget.run_button.isEnabled()


def test_preview_is_what_the_run_will_give(viewer, qtbot):
    image = noisy(3, 700, 900)
    image[2] *= 4
    viewer.add_image(image, name="stack", scale=(1, 0.5, 0.5), units="µm")
    viewer.dims.set_point(0, 1)
    widget = open_widget(viewer)
    viewer.scene.camera.zoom = 6
    started = time.monotonic()
    widget.preview.setChecked(True)
    qtbot.waitUntil(lambda: PREVIEW in viewer.layers, timeout=30_000)
    print(f"first preview after {time.monotonic() - started:.2f} s")
    layer = viewer.layers[PREVIEW]
    depth, rows, columns = layer.data.shape
    assert depth == 1 and rows <= LARGEST_SIDE and columns <= LARGEST_SIDE
    assert layer.translate[0] == 1
    y, x = (round(float(t / 0.5)) for t in layer.translate[1:])
    whole = restore(image)
    expected = whole[1, y : y + rows, x : x + columns]
    assert_alike(layer.data[0], expected)

    # It follows the view, the plane and the extent.
    viewer.dims.set_point(0, 2)
    qtbot.waitUntil(lambda: viewer.layers[PREVIEW].translate[0] == 2, timeout=30_000)
    before = viewer.layers[PREVIEW].data
    widget.extent.setCurrentText("current plane")
    qtbot.waitUntil(lambda: viewer.layers[PREVIEW].data is not before, timeout=30_000)
    y, x = (round(float(t / 0.5)) for t in viewer.layers[PREVIEW].translate[1:])
    found = viewer.layers[PREVIEW].data[0]
    alone = restore(image[2])
    assert_alike(found, alone[y : y + found.shape[0], x : x + found.shape[1]])
    widget.preview.setChecked(False)
    assert PREVIEW not in viewer.layers
    widget.preview.setChecked(True)
    qtbot.waitUntil(lambda: PREVIEW in viewer.layers, timeout=30_000)
    viewer.layers.remove(PREVIEW)
    assert not widget.preview.isChecked()


@pytest.mark.parametrize("kind", ["axial", "two channels"])
def test_a_plane_keeps_what_the_model_restores_together(viewer, qtbot, tmp_path, kind):
    """In the run as in the preview: the stack for the axial task, all channels where the model takes them at once."""
    axes, content = ("tzyx", mean_model("axial")) if kind == "axial" else ("tcyx", mixing_model())
    (tmp_path / "model.onnx").write_bytes(content)
    model = Model.load(tmp_path / "model.onnx")
    image = noisy(3, 2, 40, 44)
    image[:, 1] *= 3
    image[2] *= 4
    viewer.add_image(image, name="image", axis_labels=axes, scale=(1, 1, 0.5, 0.5), units=("s", "µm", "µm", "µm"))
    viewer.dims.set_point(0, 2)
    viewer.dims.set_point(1, 1)
    widget = open_widget(viewer)
    widget.load_model(str(tmp_path / "model.onnx"))
    qtbot.waitUntil(lambda: widget.run_button.isEnabled(), timeout=10_000)
    widget.extent.setCurrentText("current plane")
    widget.preview.setChecked(True)
    qtbot.waitUntil(lambda: PREVIEW in viewer.layers, timeout=30_000)
    preview = viewer.layers[PREVIEW]
    widget.run_button.click()
    finished(qtbot, widget)
    assert widget.status.text() == "done"
    expected = restore(image[2:], model, axes=axes.upper(), pixel_size=(1.0, 0.5))
    assert np.array_equal(viewer.layers[-1].data, expected)
    y, x = (round(float(t / 0.5)) for t in preview.translate[2:])
    rows, columns = preview.data.shape[2:]
    assert_alike(preview.data, expected[..., y : y + rows, x : x + columns])


def preview_of(data, model, position, *, whole=True):
    """The preview of the upper left 64×64 pixels."""
    image = source(Image(np.zeros(data.shape)))
    image.data = data
    window = {"Y": (0, 64), "X": (0, 64)}
    return Preview().restore(image, position, window, whole, model, {}, lambda *_: True)[0]


def test_what_the_preview_reads(monkeypatch):
    """Statistics of the whole image where that is quick, otherwise of the plane, otherwise of what is shown."""
    image = noisy(3, 600, 500)
    image[1:] *= 4
    image[:, 300:] *= 4
    model, alone = Model.builtin(), restore(image[:1])[:, :64, :64]
    assert_alike(preview_of(image, model, {"Z": 0}), restore(image)[:1, :64, :64])
    assert_alike(preview_of(image, model, {"Z": 0}, whole=False), alone)
    assert_alike(preview_of(Stored(image), model, {"Z": 0}), alone)
    monkeypatch.setattr(_preview, "LARGEST_FIT", image[0].nbytes)
    assert_alike(preview_of(image, model, {"Z": 0}), alone)
    monkeypatch.setattr(_preview, "LARGEST_FIT", image[0].nbytes - 1)
    stored = Stored(image)
    found = preview_of(stored, model, {"Z": 0})
    assert max(stored.read) < image[0].size / 2
    halo = model.info["halo"] + model.info["tile_multiple"]
    assert_alike(found, restore(image[:1, : 64 + halo, : 64 + halo])[:, :64, :64])


def test_the_preview_takes_statistics_once(monkeypatch):
    taken = []
    monkeypatch.setattr(_preview, "fit", lambda *given, **options: taken.append(given) or fit(*given, **options))
    image, model, preview = noisy(2, 80, 80), Model.builtin(), Preview()
    layer = Image(image)
    for options in ({}, {"tile": 128}, {"threads": 1}):
        for z in range(2):
            window = {"Y": (0, 64), "X": (0, 64)}
            preview.restore(source(layer), {"Z": z}, window, True, model, options, lambda *_: True)
    assert len(taken) == 1


def test_settings_are_remembered(viewer, qtbot):
    viewer.add_image(noisy(32, 32))
    widget = open_widget(viewer)
    widget.tile.setValue(256)
    widget.memory.setValue(500)
    widget.ensemble.setChecked(True)
    widget.extent.setCurrentText("current plane")
    from napari_mdr._widget import RestoreWidget

    again = RestoreWidget(viewer)
    qtbot.addWidget(again)
    assert (again.tile.value(), again.memory.value(), again.ensemble.isChecked()) == (256, 500, True)
    assert again.extent.currentText() == "current plane"


def test_settings_are_written_when_they_change(viewer, qtbot, monkeypatch):
    viewer.add_image(noisy(32, 32))
    widget = open_widget(viewer)
    written, settings = [], widget._settings
    monkeypatch.setattr(widget, "_settings", lambda: written.append(True) or settings())
    widget.run_button.click()
    finished(qtbot, widget)
    assert not written
    widget.tile.setValue(256)
    assert len(written) == 1


def test_settings_that_are_damaged_are_ignored(viewer, qtbot):
    from napari_mdr._widget import RestoreWidget

    widget = RestoreWidget(viewer)
    qtbot.addWidget(widget)
    for text in ("[", "[]", '{"tile": "big", "task": 7, "model": 3}'):
        widget._settings().setValue("last", text)
        qtbot.addWidget(RestoreWidget(viewer))


def test_the_gui_thread_stays_free(viewer, qtbot):
    """Work of the GUI thread between two ticks of a timer, in its own CPU time: waiting for a processor that other
    programs use is not ours."""
    viewer.add_image(noisy(12, 512, 512))
    widget = open_widget(viewer)
    qtbot.wait(500)
    ticks, walls = [], []
    timer = QTimer(interval=5)
    timer.timeout.connect(lambda: (ticks.append(time.thread_time()), walls.append(time.monotonic())))
    timer.start()
    widget.run_button.click()
    qtbot.waitUntil(lambda: "%" in widget.status.text(), timeout=60_000)
    qtbot.wait(1500)
    widget.cancel_button.click()
    finished(qtbot, widget)
    timer.stop()
    *_, second, longest = np.sort(np.diff(ticks))
    run = walls[-1] - walls[0]
    print(f"longest work of the GUI thread {1000 * longest:.0f} and {1000 * second:.0f} ms, of {run:.1f} s")
    assert len(ticks) > 20
    # napari draws anew once, which alone takes longer than that where there is no graphics card.
    assert second < 0.1
    assert longest < 0.5 * run
