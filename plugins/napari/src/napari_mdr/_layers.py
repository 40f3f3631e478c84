"""An image layer ⇄ what the engine takes and gives: array, axes, pixel size in µm one way, a layer's data and
properties the other. Knows napari's layers by their attributes alone and imports no napari.

Nothing here computes on pixels but the contrast limits of a result, which are taken where it is made, not in the GUI
thread.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from napari_mdr._model import Model, default_axes, output_info, restore
from napari_mdr._native import OnProgress, version

#: Results above this many bytes go to a file that is mapped into memory, and is gone with the layer.
MAPPED_FROM_BYTES = 1 << 31
#: Samples from which contrast limits are taken, about.
CONTRAST_SAMPLES = 1 << 18


@dataclass
class Part:
    """A part of an array that is not in memory (zarr reads what is indexed, at once), read when it is indexed itself:
    by an integer or a slice without step for each axis."""

    array: Any
    bounds: list[tuple[int, int]]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.bounds)

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def __getitem__(self, key: tuple[int | slice, ...]) -> Any:
        found = [range(*bound)[at] for bound, at in zip(self.bounds, key, strict=True)]
        return self.array[tuple(slice(at.start, at.stop) if isinstance(at, range) else at for at in found)]


@dataclass
class Source:
    """An image layer as the engine sees it, taken in the GUI thread."""

    name: str
    data: Any
    axes: str
    #: World units per pixel and world position of the first pixel, for each axis.
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    #: Rotation and shear, which act on scaled pixels before they are translated.
    turn: np.ndarray[Any, Any]
    #: Length of a world unit in µm, for each axis; None where it is no length, or unknown.
    unit_um: tuple[float | None, ...]
    #: What the new layer takes over untouched.
    kept: dict[str, Any] = field(default_factory=dict)
    #: The file that the layer was read from, where there is one.
    path: str | None = None
    #: Start and stop along the axes of which this is only a part.
    region: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(length) for length in self.data.shape)

    def size_um(self, letter: str) -> float | None:
        """Distance of neighbours along an axis in µm, where known."""
        if letter not in self.axes:
            return None
        at = self.axes.index(letter)
        unit = self.unit_um[at]
        return None if unit is None else abs(self.scale[at]) * unit

    @property
    def pixel_size_um(self) -> float | None:
        return self.size_um("X")

    @property
    def z_step_um(self) -> float | None:
        return self.size_um("Z")

    def part(self, parts: dict[str, tuple[int, int]]) -> Source:
        """The part between start and stop along some axes, where it lies; it has all axes of the whole."""
        bounds = [parts.get(letter, (0, length)) for letter, length in zip(self.axes, self.shape, strict=True)]
        whole = isinstance(self.data, np.ndarray)
        data = self.data[tuple(slice(*bound) for bound in bounds)] if whole else Part(self.data, bounds)
        translate = self.world([start for start, _ in bounds])
        return replace(self, data=data, translate=translate, region={**self.region, **parts})

    def world(self, pixel: list[float]) -> tuple[float, ...]:
        """Where a pixel lies, but for the layer's affine transform, which comes after all else."""
        return tuple(self.translate + self.turn @ np.multiply(self.scale, pixel))

    def plane(self, position: dict[str, int]) -> Source:
        """The plane at these indices of T, C and Z."""
        return self.part({letter: (at, at + 1) for letter, at in position.items() if letter in self.axes})


def source(layer: Any, axes: str | None = None) -> Source:
    """Takes what matters from an image layer; `axes` replaces those that are read off the layer.

    Raises
    ------
    ValueError
        where the layer holds what cannot be restored, with advice.
    """
    if getattr(layer, "rgb", False):
        raise ValueError(
            f"{layer.name} is an RGB picture, whose colours are not intensities; split it into channels first "
            "(Layers ▸ Data ▸ Split RGB), or open the original of the microscope"
        )
    # The full resolution of a multiscale image.
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    if np.dtype(data.dtype).kind not in "buif":
        raise ValueError(f"{layer.name} holds {data.dtype}; expected integers or floats")
    axes = check_axes(axes, data.ndim) if axes else axes_of(layer)
    units = getattr(layer, "units", (None,) * data.ndim)
    scale = tuple(float(s) for s in layer.scale)
    kept = {
        name: getattr(layer, name)
        for name in ("units", "axis_labels", "gamma", "blending", "rotate", "shear", "affine", "interpolation2d")
        if hasattr(layer, name)
    }
    if hasattr(layer, "colormap"):
        kept["colormap"] = layer.colormap
    return Source(
        layer.name,
        data,
        axes,
        scale,
        tuple(float(t) for t in layer.translate),
        turn(layer),
        units_um(units, scale, axes),
        kept,
        getattr(getattr(layer, "source", None), "path", None),
    )


def turn(layer: Any) -> np.ndarray[Any, Any]:
    """Rotation after shear, as one matrix."""
    shear = np.eye(layer.ndim)
    shear[np.triu_indices(layer.ndim, 1)] = layer.shear
    matrix: np.ndarray[Any, Any] = np.asarray(layer.rotate) @ shear
    return matrix


def axes_of(layer: Any) -> str:
    """The layer's axis labels where they are axes, else what is usual for its number of dimensions."""
    names = {"time": "T", "channel": "C", "depth": "Z", "height": "Y", "width": "X", "row": "Y", "column": "X"}
    labels = [str(label).strip() for label in getattr(layer, "axis_labels", ())]
    axes = "".join(names.get(label.lower(), label.upper()) for label in labels)
    try:
        return check_axes(axes, layer.ndim)
    except ValueError:
        return default_axes(layer.ndim)


def check_axes(axes: str, ndim: int) -> str:
    """Distinct letters out of TCZYX, Y and X among them, one for each dimension."""
    axes = axes.strip().upper()
    if len(axes) != ndim or len(set(axes)) != ndim or not set("YX") <= set(axes) <= set("TCZYX"):
        raise ValueError(f"axes {axes!r}: expected {ndim} different letters out of TCZYX, Y and X among them")
    return axes


def units_um(units: Any, scale: tuple[float, ...], axes: str) -> tuple[float | None, ...]:
    """Length of each axis' unit in µm. Pixels are no length; but a scale that is not 1 everywhere and has no unit is
    taken as µm, as most readers mean it."""
    lengths: list[float | None] = []
    unit: Any
    for unit in units or (None,) * len(scale):
        try:
            lengths.append(float((1 * unit).to("micrometer").magnitude))
        except (AttributeError, TypeError, ValueError):
            lengths.append(None)  # no unit, or pixels, seconds, …
    space = [axes.index(letter) for letter in "ZYX" if letter in axes]
    if all(lengths[at] is None for at in space) and any(scale[at] != 1 for at in space):
        return tuple(1.0 if letter in "ZYX" else None for letter in axes)
    return tuple(lengths)


def restored_layer(
    source: Source,
    model: Model,
    options: dict[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> tuple[Any, dict[str, Any], str]:
    """Restores: data, properties and type of the new layer, as napari takes them."""
    settings, task = engine_settings(source, model, options or {})
    info = output_info(model, source.axes, source.shape, **settings)
    out = empty(tuple(info["shape"]))
    restore(source.data, model, axes=source.axes, progress=progress, out=out, **settings)
    properties = {
        **source.kept,
        "rgb": False,
        **placed(source, tuple(info["shape"]), info, task, settings),
        "name": f"{source.name} [mdr {task or 'restored'}]",
        "contrast_limits": contrast_limits(out),
        "metadata": {"mdr": provenance(source, model, info)},
    }
    return out, properties, "image"


def engine_settings(source: Source, model: Model, options: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Keyword arguments of `restore`, the pixel size among them, and the task of the run."""
    settings = dict(options)
    given, z_step = settings.pop("pixel_size_um", None), settings.pop("z_step_um", None)
    width, height = source.pixel_size_um, source.size_um("Y")
    task = settings.get("task") or model.info["task"]
    if task == "axial" and given is None and width and height and abs(height / width - 1) > 1e-3:
        raise ValueError(f"task axial needs square pixels; these are {width:g} µm along X and {height:g} µm along Y")
    pixel_size, z_step = given or width, z_step or source.z_step_um
    if pixel_size or z_step:
        settings["pixel_size"] = (z_step, pixel_size)
    return settings, task


def empty(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Room for a result: in memory, or in a temporary file."""
    size = int(np.prod(shape, dtype=np.int64)) * 4
    if size <= MAPPED_FROM_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(prefix="mdr") as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be a signal, in the middle of the work
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        where = f"a result of {size >> 20} MB, in {tempfile.gettempdir()}"
        raise OSError(f"{where}: {error.strerror}; TMPDIR may name a folder with more room") from error


def placed(
    source: Source, shape: tuple[int, ...], info: dict[str, Any], task: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """Scale and translation of a result: it lies where its source lies."""
    scale, first = list(source.scale), [0.0] * len(shape)
    for at, letter in enumerate(source.axes):
        if letter == "C" and settings.get("channel") is not None:
            first[at] = settings["channel"]
        elif letter == "Z" and task == "axial":
            # From the first plane on, one pixel size apart.
            scale[at] *= info["z_step_um"] / settings["pixel_size"][0]
        elif letter in "ZYX" and shape[at] != source.shape[at]:
            # The edges of the image stay where they are: each pixel becomes several.
            scale[at] *= source.shape[at] / shape[at]
            first[at] = (source.shape[at] / shape[at] - 1) / 2
    return {"scale": tuple(scale), "translate": source.world(first)}


def contrast_limits(array: np.ndarray[Any, Any]) -> tuple[float, float]:
    """From the darkest to nearly the brightest, on samples spread over the array."""
    step = max(1, round((array.size / CONTRAST_SAMPLES) ** (1 / array.ndim)))
    samples = array[(slice(None, None, step),) * array.ndim]
    samples = samples[np.isfinite(samples)]
    if samples.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(samples, [0.1, 99.95]))
    return low, high if high > low else low + 1.0


def provenance(source: Source, model: Model, info: dict[str, Any]) -> dict[str, Any]:
    """From which the run can be repeated: `restore(data[region], model, axes=…, **options)`."""
    note: dict[str, Any] = json.loads(info["provenance"])
    return {
        "engine": version(),
        "model": note["model"],
        "sha256": note["sha256"],
        "model_source": model.info["source"],
        "task": model.info["task"],
        "axes": source.axes,
        "options": note["options"],
        "source": source.name,
        "path": source.path,
        "region": source.region,
        "provenance": info["provenance"],
        "caution": info["caution"],
    }
