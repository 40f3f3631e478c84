"""The plug-in in a real napari: its menu, what becomes of layers, cancelling, errors."""

from __future__ import annotations

import json

import numpy as np
from conftest import menu_action, noisy
from napari_mdr import Model

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


def test_menu_item_is_off_without_an_image_layer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    assert not menu_action(viewer, *PATH).isEnabled()
    viewer.add_image(noisy(64, 64))
    assert menu_action(viewer, *PATH).isEnabled()
    viewer.add_points([[1, 1]])
    assert not menu_action(viewer, *PATH).isEnabled()
