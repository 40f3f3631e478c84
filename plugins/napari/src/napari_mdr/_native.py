"""libmdr as Python sees it: the library beside this file, every function of `mdr.h` with its types, statuses as
exceptions. The only file that imports ctypes.

Pixels are not looked at here: a numpy array gives its address, and planes go through callbacks. ctypes releases the
GIL for as long as a function of the library runs and takes it for callbacks. An exception cannot pass through the
library, so a callback keeps it, stops the run, and it is raised once the library has returned.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Sequence
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

import numpy as np

ABI_VERSION = 1
BUFFER_TOO_SMALL = 2
CANCELLED = 8

#: MdrPixelType of a numpy type in the machine's byte order.
PIXEL_TYPES = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 2, np.dtype(np.float32): 3}

OnProgress = Callable[[int, int], Any]
#: Reads the plane (t, c, z) into an array with the axes Y, X.
ReadPlane = Callable[[int, int, int, "np.ndarray[Any, Any]"], None]
#: Takes the plane (t, c, z); the array is not to be kept.
WritePlane = ReadPlane

_Progress = CFUNCTYPE(c_int32, c_uint64, c_uint64, c_void_p)
_Plane = CFUNCTYPE(c_int32, c_uint64, c_uint64, c_uint64, c_void_p, c_void_p)

#: Result and arguments of every function of `mdr.h`; a test compares the names.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "mdr_abi_version": (c_uint32, []),
    "mdr_version": (c_char_p, []),
    "mdr_last_error": (c_char_p, []),
    "mdr_builtin_models": (c_int32, [c_char_p, c_size_t, POINTER(c_size_t)]),
    "mdr_model_builtin": (c_int32, [c_char_p, POINTER(c_void_p)]),
    "mdr_model_load": (c_int32, [c_char_p, POINTER(c_void_p)]),
    "mdr_model_from_memory": (c_int32, [c_char_p, POINTER(c_uint8), c_size_t, POINTER(c_void_p)]),
    "mdr_model_free": (None, [c_void_p]),
    "mdr_model_facts": (c_int32, [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)]),
    "mdr_output_shape": (c_int32, [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, POINTER(c_size_t)]),
    "mdr_output_info": (
        c_int32,
        [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_char_p, c_size_t, POINTER(c_size_t)],
    ),
    "mdr_restore": (
        c_int32,
        [c_void_p, c_void_p, c_int32, c_char_p, POINTER(c_size_t), POINTER(c_int64), c_char_p]
        + [_Progress, c_void_p, c_void_p, c_int32, c_size_t],
    ),
    "mdr_check_tiff": (c_int32, [c_char_p]),
    "mdr_sample": (
        c_int32,
        [c_char_p, POINTER(c_uint16), c_size_t, c_char_p, c_size_t, POINTER(c_size_t)],
    ),
    "mdr_fit_planes": (
        c_int32,
        [c_void_p, _Plane, c_int32, c_char_p, POINTER(c_size_t), c_char_p, c_void_p]
        + [c_char_p, c_size_t, POINTER(c_size_t)],
    ),
    "mdr_restore_planes": (
        c_int32,
        [c_void_p, _Plane, c_int32, c_char_p, POINTER(c_size_t), c_char_p, _Progress, c_void_p, _Plane, c_int32],
    ),
}


class MdrError(Exception):
    """What the engine refused, in its own words."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        #: MdrStatus of `mdr.h`.
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.status)


class Cancelled(MdrError):
    """The progress function asked to stop."""


def _open() -> ctypes.CDLL:
    name = {"darwin": "libmdr.dylib", "win32": "mdr.dll"}.get(sys.platform, "libmdr.so")
    path = os.environ.get("MDR_LIBRARY") or str(Path(__file__).parent / name)
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"napari-mdr: {error}; install the wheel again, or `pip install ./plugins/napari`") from None
    library.mdr_abi_version.restype = c_uint32
    if (found := library.mdr_abi_version()) != ABI_VERSION:
        raise ImportError(
            f"napari-mdr: {path} has ABI version {found}, expected {ABI_VERSION}; install the wheel again"
        )
    for function, (result, arguments) in FUNCTIONS.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


_library = _open()


def version() -> str:
    """Version of the engine."""
    text: bytes = _library.mdr_version()
    return text.decode()


def _check(status: int) -> None:
    if status:
        message = _library.mdr_last_error().decode()
        raise (Cancelled if status == CANCELLED else MdrError)(message, status)


def _json(function: Callable[..., int], *arguments: Any) -> Any:
    """Asks for the length, allocates, asks again."""
    needed = c_size_t()
    status = function(*arguments, None, 0, needed)
    if status != BUFFER_TOO_SMALL:
        _check(status)
    buffer = ctypes.create_string_buffer(needed.value)
    _check(function(*arguments, buffer, len(buffer), None))
    return json.loads(buffer.value)


def _text(text: str) -> bytes:
    if "\0" in text:
        raise ValueError(f"{text!r} contains a NUL character")
    return text.encode()


def _lengths(shape: Sequence[int]) -> Any:
    return (c_size_t * len(shape))(*shape)


class Handle:
    """A loaded model, freed with the last reference. Several threads may use one at the same time."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self._pointer = c_void_p()
        _check(getattr(_library, function)(*arguments, self._pointer))

    @classmethod
    def builtin(cls, task: str) -> Handle:
        return cls("mdr_model_builtin", _text(task))

    @classmethod
    def load(cls, path: str) -> Handle:
        return cls("mdr_model_load", _text(path))

    @classmethod
    def from_memory(cls, name: str, content: bytes) -> Handle:
        array = (c_uint8 * max(len(content), 1)).from_buffer_copy(content or b"\0")
        return cls("mdr_model_from_memory", _text(name), array, len(content))

    def __del__(self, free: Any = _library.mdr_model_free) -> None:
        free(self._pointer)

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = _json(_library.mdr_model_facts, self._pointer)
        return facts

    def output_info(self, axes: str, shape: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
        axes_, shape_, options_ = self._request(axes, shape, options)
        info: dict[str, Any] = _json(_library.mdr_output_info, self._pointer, axes_, shape_, options_)
        return info

    def restore(
        self,
        array: np.ndarray[Any, Any],
        axes: str,
        options: dict[str, Any],
        progress: OnProgress | None,
        out: np.ndarray[Any, Any],
    ) -> None:
        """Restores `array`, at any strides, into `out`, without gaps; both of a type in PIXEL_TYPES."""
        axes_, shape_, options_ = self._request(axes, array.shape, options)
        strides = (c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))
        callbacks = _Callbacks()
        status = _library.mdr_restore(
            self._pointer,
            array.ctypes.data,
            PIXEL_TYPES[array.dtype],
            axes_,
            shape_,
            strides,
            options_,
            callbacks.progress(progress),
            None,
            out.ctypes.data,
            PIXEL_TYPES[out.dtype],
            out.size,
        )
        callbacks.check(status)

    def restore_planes(
        self,
        read: ReadPlane,
        read_type: np.dtype[Any],
        axes: str,
        shape: Sequence[int],
        options: dict[str, Any],
        progress: OnProgress | None,
        write: WritePlane,
        write_type: np.dtype[Any],
    ) -> None:
        """Restores an image that is read and written plane by plane."""
        axes_, shape_, options_ = self._request(axes, shape, options)
        info = self.output_info(axes, shape, options)
        callbacks = _Callbacks()
        status = _library.mdr_restore_planes(
            self._pointer,
            callbacks.plane(read, _plane_shape(axes, shape), read_type),
            PIXEL_TYPES[read_type],
            axes_,
            shape_,
            options_,
            callbacks.progress(progress),
            None,
            callbacks.plane(write, _plane_shape(info["axes"], info["shape"]), write_type),
            PIXEL_TYPES[write_type],
        )
        callbacks.check(status)

    def fit_planes(
        self, read: ReadPlane, read_type: np.dtype[Any], axes: str, shape: Sequence[int], options: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Statistics of each channel, for the option `fitted`."""
        axes_, shape_, options_ = self._request(axes, shape, options)
        callbacks = _Callbacks()
        channels = dict(zip(axes.upper(), shape, strict=True)).get("C", 1)
        buffer = ctypes.create_string_buffer(100 * channels + 100)
        status = _library.mdr_fit_planes(
            self._pointer,
            callbacks.plane(read, _plane_shape(axes, shape), read_type),
            PIXEL_TYPES[read_type],
            axes_,
            shape_,
            options_,
            None,
            buffer,
            len(buffer),
            None,
        )
        callbacks.check(status)
        fitted: list[dict[str, Any]] = json.loads(buffer.value)
        return fitted

    @staticmethod
    def _request(axes: str, shape: Sequence[int], options: dict[str, Any]) -> tuple[bytes, Any, bytes]:
        # The library reads as many lengths as there are axes.
        if len(axes) != len(shape):
            raise ValueError(f"axes {axes!r} for an array of {len(shape)} dimensions; expected one letter for each")
        given = {key: value for key, value in options.items() if value is not None}
        return _text(axes), _lengths(shape), json.dumps(given).encode()


def builtin_models() -> list[dict[str, Any]]:
    """Facts about the models that are built into the library."""
    models: list[dict[str, Any]] = _json(_library.mdr_builtin_models)
    return models


def sample(task: str) -> tuple[np.ndarray[Any, np.dtype[np.uint16]], dict[str, Any]]:
    """A simulated image with the defect that a task restores, and its axes, shape, pixel_size_um, z_step_um."""
    info: dict[str, Any] = _json(_library.mdr_sample, _text(task), None, 0)
    image = np.empty(info["shape"], np.uint16)
    _check(_library.mdr_sample(_text(task), image.ctypes.data_as(POINTER(c_uint16)), image.size, None, 0, None))
    return image, info


def _plane_shape(axes: str, shape: Sequence[int]) -> tuple[int, int]:
    axes = axes.upper()
    return shape[axes.index("Y")], shape[axes.index("X")]


class _Callbacks:
    """Callbacks of one call, kept alive until it has returned, and the exception of the first that failed."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def _guarded(self, function: Callable[[], Any]) -> int:
        try:
            return int(function() is not False)
        except BaseException as error:  # KeyboardInterrupt too: nothing may pass through the library
            self._error = error
            return 0

    def progress(self, function: OnProgress | None) -> Any:
        if function is None:
            return _Progress()
        return _Progress(lambda done, total, _: self._guarded(lambda: function(done, total)))

    def plane(self, function: ReadPlane, shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
        sample = np.ctypeslib.as_ctypes_type(dtype)

        def call(t: int, c: int, z: int, samples: int, _: Any) -> int:
            plane = np.ctypeslib.as_array(ctypes.cast(samples, POINTER(sample)), shape)
            return self._guarded(lambda: function(t, c, z, plane))

        return _Plane(call)

    def check(self, status: int) -> None:
        if self._error is not None:
            raise self._error
        _check(status)
