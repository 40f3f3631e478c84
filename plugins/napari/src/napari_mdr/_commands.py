"""The menu items: the active layer, the built-in model of a task, and a new layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_warning

from napari_mdr._layers import restored_layer, source
from napari_mdr._model import Model
from napari_mdr._native import MdrError
from napari_mdr._run import Run

if TYPE_CHECKING:
    import napari

TITLES = {"denoise": "Denoise", "axial": "Restore axial resolution", "super-resolve": "Super-resolve"}


def run(viewer: Any, layer: Any, task: str, options: dict[str, Any] | None = None) -> Run | None:
    """Restores `layer` with the built-in model for `task` and adds the result to `viewer`."""
    try:
        image, model = source(layer), Model.builtin(task)
    except (MdrError, ValueError) as error:
        show_error(str(error))
        return None
    run = Run(f"{TITLES[task]}: {image.name}", lambda progress: restored_layer(image, model, options, progress))
    run.done.connect(lambda result: add(viewer, result))
    return run.start()


def add(viewer: Any, result: tuple[Any, dict[str, Any], str]) -> None:
    """Adds what `restored_layer` has made to `viewer`, and says what there is to be careful about."""
    data, properties, _ = result
    viewer.add_image(data, **properties)
    caution = properties["metadata"]["mdr"]["caution"]
    if caution:
        show_warning(f"{properties['name']}: {caution}")


def denoise(viewer: napari.viewer.Viewer, layer: napari.layers.Image) -> None:
    run(viewer, layer, "denoise")


def axial(viewer: napari.viewer.Viewer, layer: napari.layers.Image) -> None:
    run(viewer, layer, "axial")


def super_resolve(viewer: napari.viewer.Viewer, layer: napari.layers.Image) -> None:
    run(viewer, layer, "super-resolve")
