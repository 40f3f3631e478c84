"""The visible region of a layer, restored as the whole would be: the region with the margin that the network asks for,
normalised by the statistics of what will be restored. These are taken once and kept. Where they would keep the user
waiting, because the image is large or lazily loaded, those of the plane stand in, or of the region.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from napari_mdr._blocks import cut, together
from napari_mdr._layers import Source, contrast_limits, engine_settings, placed
from napari_mdr._model import ArrayLike, Model, fit, output_info, restore
from napari_mdr._native import OnProgress

#: Sides of the largest region that is previewed, in pixels; of a stack that is restored across Z.
LARGEST_SIDE = 512
LARGEST_SIDE_OF_STACK = 128
#: Bytes of the largest image whose statistics are taken for a preview, which is a matter of some tenths of a second.
LARGEST_FIT = 1 << 27


class Preview:
    """What a preview keeps from one update to the next."""

    def __init__(self) -> None:
        self._key: Any = None
        self._of: Any = None
        self._fitted: list[dict[str, Any]] = []

    def restore(
        self,
        source: Source,
        position: dict[str, int],
        window: dict[str, tuple[int, int]],
        whole: bool,
        model: Model,
        options: dict[str, Any],
        progress: OnProgress,
    ) -> tuple[Any, dict[str, Any]]:
        """Data and properties of the preview of the plane at `position` within `window`, both in pixels of `source`.
        `whole`: the whole image is to be restored, not that plane alone."""
        settings, task = engine_settings(source, model, options)
        settings.pop("channel", None)
        kept = together(model, task)
        flat = {letter: at for letter, at in position.items() if letter not in kept}
        image = source.plane({"C": flat["C"]} if "C" in flat else {})
        plane = source.plane(flat)
        window = {letter: limited(bounds, "Z" in kept) for letter, bounds in window.items()}
        reads, keeps = cut(model, source.axes, plane.shape, window)
        part = np.asarray(plane.data[reads])
        key: tuple[Any, ...] = (source.axes, model.info["sha256"], repr(settings.get("normalization")), flat.get("C"))
        model_of = image.data
        if not (whole and isinstance(model_of, np.ndarray) and size(model_of) <= LARGEST_FIT):
            model_of = plane.data
            key += tuple(flat.items())
            if size(model_of) > LARGEST_FIT:
                model_of = part
                key += (str(reads),)
        if key != self._key or self._of is None or self._of() is not source.data:

            def go_on() -> Any:
                return progress(0, 0)

            self._fitted = fit(model_of, model, axes=source.axes, progress=go_on, **settings)
            self._key, self._of = key, weakref.ref(source.data)
        settings["fitted"] = self._fitted
        restored = restore(part, model, axes=source.axes, progress=progress, **settings)[keeps]
        info = output_info(model, source.axes, part.shape, **settings)
        shown = plane.part(window)
        properties = placed(shown, restored.shape, info, task, settings)
        return restored, {**source.kept, **properties, "rgb": False, "contrast_limits": contrast_limits(restored)}


def size(array: ArrayLike) -> int:
    """Bytes of an array, in memory or not."""
    return math.prod(array.shape) * int(np.dtype(array.dtype).itemsize)


def limited(bounds: tuple[int, int], stack: bool) -> tuple[int, int]:
    """The middle of a range that is too long."""
    start, stop = bounds
    side = LARGEST_SIDE_OF_STACK if stack else LARGEST_SIDE
    middle = max(start, (start + stop - side) // 2)
    return middle, min(stop, middle + side)
