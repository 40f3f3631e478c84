"""numpy in, numpy out: `Model` and `restore`. Anything that can be indexed plane by plane goes in as well (dask, zarr,
a memory map), and is never read as a whole.

Only conversions happen here. Normalisation, tiles, axes and defaults are the engine's, so that the result is that of
`mdr restore`, byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, overload

import numpy as np

from napari_mdr import _native

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Axes of an array that comes without, by its number of dimensions.
DEFAULT_AXES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}


Out = TypeVar("Out")


class ArrayLike(Protocol):
    """What can be indexed with integers and slices, one for each axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any) -> Any: ...


class Options(TypedDict, total=False):
    """Options of the engine; `None`, or left out, is right for nearly all.

    tile
        side in pixels of the tiles that the network sees.
    overlap
        pixels that neighbouring tiles share, at least.
    threads
        that run the network.
    memory_limit_mb
        bound on the engine's working memory in MB (2^20 bytes).
    precise
        True rounds as little as can be, at about half the speed.
    self_ensemble
        True takes the mean of the results for the image flipped and turned in eight ways (axial: four): a little nearer
        to the truth, in as many times the time.
    channel
        the one channel to restore, from 0; `None`: each on its own.
    normalization
        replaces the model's, such as {"kind": "percentile", "low": 2, "high": 99.8}.
    fitted
        what `fit` returned for the whole image, where a part of it is restored.
    slices
        True where an axial model gets XZ or YZ slices that are isotropic already.
    task
        replaces the task of a model that does not name its own.
    """

    tile: int | None
    overlap: int | None
    threads: int | None
    memory_limit_mb: int | None
    precise: bool | None
    self_ensemble: bool | None
    channel: int | None
    normalization: dict[str, Any] | None
    fitted: list[dict[str, Any]] | None
    slices: bool | None
    task: Literal["denoise", "axial", "super-resolve"] | None


class Model:
    """A model: one that is built in, or a file. It may be used from several threads at once, and pickled (a file is
    then loaded again by its path).

    >>> Model.builtin("denoise").info["name"]
    'mdr denoise'
    """

    def __init__(self, handle: _native.Handle, origin: tuple[Callable[..., Model], tuple[Any, ...]]) -> None:
        """Use `builtin`, `load` or `from_bytes`."""
        self._handle = handle
        self._origin = origin
        self._info = handle.facts()

    @classmethod
    @cache
    def builtin(cls, task: str = "denoise") -> Model:
        """The built-in model for a task: "denoise", "axial" or "super-resolve", as far as `builtins` has them. It is
        loaded once in a process, as that takes as long as restoring a small image."""
        return cls(_native.Handle.builtin(task), (cls.builtin, (task,)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """An .onnx file, or a bioimage.io package (a folder, its rdf.yaml, or a .zip)."""
        path = os.path.abspath(path)
        return cls(_native.Handle.load(path), (cls.load, (path,)))

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "model") -> Model:
        """The content of an .onnx file; `name` is for messages."""
        return cls(_native.Handle.from_memory(name, content), (cls.from_bytes, (content, name)))

    @staticmethod
    def builtins() -> list[dict[str, Any]]:
        """Facts about each built-in model, as `info` has them."""
        return _native.builtin_models()

    @property
    def info(self) -> dict[str, Any]:
        """Facts: name, task, axes, channels, scale (output pixels per input pixel), normalization, halo (input pixels
        around a pixel that can change it), tile_multiple, description, license, authors, trained_on, method, metrics,
        scores (the metrics in words), axial_step (pixels between planes that an axial model was trained with), source,
        sha256."""
        return dict(self._info)

    def __repr__(self) -> str:
        return f"<Model {self._info['name']!r}, {self._info['task']}, {self._info['source']}>"

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Any, ...]]:
        return _again, self._origin


@lru_cache(maxsize=8)
def _again(load: Callable[..., Model], arguments: tuple[Any, ...]) -> Model:
    """A model from its pickle, loaded once in a process however many blocks come with it."""
    return load(*arguments)


def output_info(
    model: Model | str,
    axes: str,
    shape: tuple[int, ...],
    *,
    pixel_size: float | tuple[float, float] | None = None,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """What `restore` will make of an array of this shape: axes, shape, pixel_size_um, z_step_um, provenance (the
    model and the options in one line of JSON), and caution (one line where the image is not such as the model was
    trained for, else None)."""
    return _model(model)._handle.output_info(axes, shape, _options(pixel_size, options))


@overload
def restore(
    array: ArrayLike,
    model: Model | str | None = None,
    *,
    axes: str | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    dtype: Any = np.float32,
    out: None = None,
    **options: Unpack[Options],
) -> np.ndarray[Any, Any]: ...
@overload
def restore(
    array: ArrayLike,
    model: Model | str | None = None,
    *,
    axes: str | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    dtype: Any = np.float32,
    out: Out,
    **options: Unpack[Options],
) -> Out: ...
def restore(
    array: ArrayLike,
    model: Model | str | None = None,
    *,
    axes: str | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    progress: Callable[[int, int], Any] | None = None,
    dtype: Any = np.float32,
    out: Any = None,
    **options: Unpack[Options],
) -> Any:
    """Restores an image.

    Parameters
    ----------
    array
        numpy array of any strides, or anything that can be indexed plane by plane (dask, zarr, memory map), which is
        then never in memory as a whole. Samples of 8 and 16 bit and float32 are taken as they are, others as float32.
    model
        a model, or the task of a built-in one; without it, the built-in one of the option `task`, or "denoise".
    axes
        one letter out of TCZYX for each dimension, in any order; by default YX, ZYX, TZYX or TCZYX. An array whose last
        dimension is 3 or 4, as that of an RGB picture, is refused without.
    pixel_size
        pixel size in µm, or (z step, pixel size), which axial restoration needs.
    progress
        called with the work done and the work in all; `False` cancels, which raises `Cancelled`.
    dtype
        of the result: float32, or uint8 or uint16, rounded and clamped.
    out
        receives the result, plane by plane, in place of a new array: anything of the right shape that can be
        assigned to by index, such as a zarr array. It may be `array` itself, but not memory that overlaps it in part.
    options
        see `Options`.

    Returns
    -------
    `out`, or a new array with the axes of `array` in their order, and lengths as `output_info` gives them.

    Raises
    ------
    MdrError
        where the engine refuses, with its reason. `Cancelled` is one.
    """
    array, axes = _with_axes(array, axes)
    model = _model(model, options.get("task"))
    shape = tuple(int(length) for length in array.shape)
    settings = _options(pixel_size, options)
    shape_out = tuple(model._handle.output_info(axes, shape, settings)["shape"])
    dtype = np.dtype(dtype if out is None else out.dtype)
    if dtype not in _native.PIXEL_TYPES:
        raise TypeError(f"dtype {dtype}: expected float32, uint8 or uint16")
    if out is None:
        result: Any = np.empty(shape_out, dtype)
    elif tuple(out.shape) != shape_out:
        raise ValueError(f"out has the shape {tuple(out.shape)}, expected {shape_out}")
    else:
        _check_out(out, array)
        result = out

    if _is_plain(array) and _is_plain(result) and result.flags.c_contiguous:
        if not np.may_share_memory(array, result):
            model._handle.restore(np.asarray(array), axes, settings, progress, np.asarray(result))
            return result
    read, given = _reader(array, axes)
    at, flip = _plane_index(axes)

    def write(t: int, c: int, z: int, plane: np.ndarray[Any, Any]) -> None:
        result[at(t, c, z)] = plane.T if flip else plane

    model._handle.restore_planes(read, given, axes, shape, settings, progress, write, dtype)
    return result


def fit(
    array: ArrayLike,
    model: Model | str | None = None,
    *,
    axes: str | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    progress: Callable[[], Any] | None = None,
    **options: Unpack[Options],
) -> list[dict[str, Any]]:
    """Takes the statistics by which `restore` normalises an image, one for each channel that is restored: given as the
    option `fitted`, a part of the image is restored as the whole would be. `progress` is called before every plane;
    `False` cancels."""
    array, axes = _with_axes(array, axes)
    read, given = _reader(array, axes)

    def watched(t: int, c: int, z: int, plane: np.ndarray[Any, Any]) -> Any:
        return False if progress is not None and progress() is False else read(t, c, z, plane)

    shape = tuple(int(length) for length in array.shape)
    handle = _model(model, options.get("task"))._handle
    return handle.fit_planes(watched, given, axes, shape, _options(pixel_size, options))


def _plane_index(axes: str) -> tuple[Callable[[int, int, int], tuple[Any, ...]], bool]:
    """The index of a plane, and whether its axes are X, Y instead of Y, X."""
    upper = axes.upper()

    def at(t: int, c: int, z: int) -> tuple[Any, ...]:
        return tuple({"T": t, "C": c, "Z": z}.get(letter, slice(None)) for letter in upper)

    return at, upper.index("Y") > upper.index("X")


def _reader(array: ArrayLike, axes: str) -> tuple[_native.ReadPlane, np.dtype[Any]]:
    """A function that reads planes, and the type that it reads them as."""
    source = np.dtype(array.dtype).newbyteorder("=")
    if source.kind not in "buif":
        raise TypeError(f"array of {source}: expected integers or floats")
    at, flip = _plane_index(axes)

    def read(t: int, c: int, z: int, plane: np.ndarray[Any, Any]) -> None:
        found = np.asarray(array[at(t, c, z)])
        plane[...] = found.T if flip else found

    return read, source if source in _native.PIXEL_TYPES else np.dtype(np.float32)


def default_axes(ndim: int) -> str:
    """Axes of an array that says nothing about them."""
    if ndim not in DEFAULT_AXES:
        raise ValueError(f"array of {ndim} dimensions: expected 2 to 5")
    return DEFAULT_AXES[ndim]


def _with_axes(array: ArrayLike, axes: str | None) -> tuple[ArrayLike, str]:
    """The array, of what numpy makes one of too, and its axes."""
    if not hasattr(array, "shape"):
        array = np.asarray(array)
    if axes is None and len(array.shape) > 2 and array.shape[-1] in (3, 4):
        raise ValueError(
            f"array of shape {tuple(array.shape)}: a last axis of {array.shape[-1]} is that of an RGB picture; restore "
            "measured channels, and say what the axes are, such as axes='YXC'"
        )
    return array, axes or default_axes(len(array.shape))


def _model(model: Model | str | None, task: str | None = None) -> Model:
    if model is None:
        model = task or "denoise"
    return Model.builtin(model) if isinstance(model, str) else model


def _options(pixel_size: float | tuple[float, float] | None, options: Any) -> dict[str, Any]:
    if pixel_size is None:
        return dict(options)
    z_step, size = pixel_size if isinstance(pixel_size, tuple) else (None, pixel_size)
    return {**options, "pixel_size_um": size, "z_step_um": z_step}


def _check_out(out: Any, array: Any) -> None:
    """Refuses memory that the result must not go to. The library knows of no array that is read-only; and what overlaps
    the image would be read after it has been replaced, unless each plane lies where its result goes."""
    if not isinstance(out, np.ndarray):
        return
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if not isinstance(array, np.ndarray) or _layout(out) == _layout(array):
        return
    # An exact answer may take for ever: where it is too hard, it counts as an overlap. (numpy's stubs lack this use.)
    if np.may_share_memory(out, array, max_work=1_000_000):  # type: ignore[arg-type]
        raise ValueError("out overlaps the image; expected the image itself, or memory of its own")


def _layout(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return array.ctypes.data, array.shape, array.strides, array.dtype


def _is_plain(array: Any) -> bool:
    """Whether the library can work on the memory of `array`."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype in _native.PIXEL_TYPES
        and array.dtype.isnative
        and array.flags.aligned
        and all(stride % array.itemsize == 0 for stride in array.strides)
    )
