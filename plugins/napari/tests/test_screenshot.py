"""A picture of the viewer with the widget and a restored layer: it shows what it should, and is the one in the README
where MDR_BLESS is set (`make napari-screenshot`)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from test_widget import finished, open_widget

PICTURE = Path(__file__).parents[3] / ".github" / "napari.png"


def test_screenshot(make_napari_viewer, qtbot):
    from PIL import Image

    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1280, 800)
    viewer.open_sample("napari-mdr", "noisy")
    widget = open_widget(viewer)
    widget.run_button.click()
    finished(qtbot, widget)
    source, restored = viewer.layers
    # The noisy image above the restored one, each at its own brightness.
    viewer.canvas.grid.enabled = True
    viewer.canvas.grid.shape = (2, 1)
    viewer.canvas.grid.stride = 1
    source.contrast_limits = [float(np.percentile(source.data, p)) for p in (0.5, 99.8)]
    viewer.reset_view()
    qtbot.wait(1500)
    canvas = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    above, below = canvas[: len(canvas) // 2], canvas[len(canvas) // 2 :]

    def grain(half):
        return np.abs(np.diff(half[..., 1], axis=1)).mean()

    assert min(above.std(), below.std()) > 10, "both images are drawn"
    assert grain(above) > 2 * grain(below), "one is noisy, the other is not"
    if os.environ.get("MDR_BLESS"):
        picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        picture.resize((1100, round(1100 * picture.height / picture.width))).quantize(96).save(PICTURE, optimize=True)
    assert PICTURE.stat().st_size < 300_000
