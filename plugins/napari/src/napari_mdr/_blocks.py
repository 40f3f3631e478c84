"""A large image as blocks that can be restored anywhere, with the result of the whole but for rounding: each is read
with the margin that the network's field asks for and normalised by the statistics of the whole image.

The margins follow the network's grid: a read begins at a multiple of its strides, as the engine's own tiles do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mdr._model import ArrayLike, Model, Options, _model, _with_axes, fit, output_info, restore

if TYPE_CHECKING:
    import dask.array
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Margin:
    """What a model needs around a block."""

    halo: int
    multiple: int

    @classmethod
    def of(cls, model: Model) -> Margin:
        info = model.info
        if info["halo"] is None:
            raise ValueError(f"{info['name']} cannot be cut into blocks: {info['untileable_because']}")
        return cls(info["halo"], info["tile_multiple"])

    def read(self, start: int, stop: int, length: int) -> slice:
        """The pixels to read for the pixels `start` to `stop` of an axis."""
        first = max(0, start - self.halo) // self.multiple * self.multiple
        last = -(-(stop + self.halo) // self.multiple) * self.multiple
        return slice(first, min(last, length))


def together(model: Model, task: str | None) -> str:
    """The axes but Y and X that the network restores as a whole: Z of stacks, channels that it takes at once."""
    stacks = task == "axial" or model.info["axes"] == "ZYX"
    return ("C" if model.info["channels"] > 1 else "") + ("Z" if stacks else "")


def cut(
    model: Model, axes: str, shape: tuple[int, ...], region: dict[str, tuple[int, int]]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """For a part of an image, given by start and stop along the axes that are cut: what to read of the image, and
    what to keep of the result."""
    margin, scale = Margin.of(model), model.info["scale"]
    reads, keeps = [], []
    for letter, length in zip(axes, shape, strict=True):
        start, stop = region.get(letter, (0, length))
        read = margin.read(start, stop, length) if letter in "YX" else slice(start, stop)
        keep = slice((start - read.start) * scale, (stop - read.start) * scale) if letter in "YX" else slice(None)
        reads.append(read)
        keeps.append(keep)
    return tuple(reads), tuple(keeps)


def restore_blocks(
    array: ArrayLike,
    model: Model | str | None = None,
    *,
    axes: str | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    dtype: Any = np.float32,
    block: int = 1024,
    **options: Unpack[Options],
) -> dask.array.Array:
    """Restores an image lazily, as a dask array of blocks of `block` by `block` pixels, each of one plane (or stack,
    where the model takes stacks), one time point and one channel. Any dask scheduler may compute it, on any number of
    machines; the pixels are those of `restore` but for rounding (below 1e-5 of their range), which depends on where a
    pixel lies in the part that the network gets.

    The statistics for the normalisation are taken at once, which reads the image plane by plane; the option `fitted`,
    from `fit`, spares that. A model from a file is loaded by its path, which must lead to it on every machine.
    """
    import dask
    import dask.array as da

    array, axes = _with_axes(array, axes)
    model, axes = _model(model, options.get("task")), axes.upper()
    source = array if isinstance(array, da.Array) else da.from_array(array)
    shape = tuple(int(length) for length in source.shape)
    result = output_info(model, axes, shape, pixel_size=pixel_size, **options)["shape"]
    fitted = options.pop("fitted", None) or fit(source, model, axes=axes, pixel_size=pixel_size, **options)
    whole = together(model, None if options.get("slices") else options.get("task") or model.info["task"])
    channel = options.pop("channel", None)
    options.setdefault("threads", 1)  # the scheduler runs several blocks at once
    multiple = model.info["tile_multiple"]
    side = max(block // multiple, 1) * multiple

    def parts(letter: str, length: int) -> list[tuple[int, int]]:
        if letter == "C" and channel is not None:
            return [(channel, channel + 1)]
        step = length if letter in whole else side if letter in "YX" else 1
        return [(start, min(start + step, length)) for start in range(0, length, step)]

    cuts = [parts(letter, length) for letter, length in zip(axes, shape, strict=True)]
    blocks = np.empty([len(cut) for cut in cuts], object)
    work = dask.delayed(_block, pure=True)
    for at in np.ndindex(blocks.shape):
        region = {letter: cuts[i][at[i]] for i, letter in enumerate(axes)}
        reads, keeps = cut(model, axes, shape, region)
        lengths = tuple(
            keep.stop - keep.start if keep.stop else total if len(cuts[i]) == 1 else 1
            for i, (keep, total) in enumerate(zip(keeps, result, strict=True))
        )
        first = 0 if "C" in whole or channel is not None else region.get("C", (0, 1))[0]
        numbers = fitted if "C" in whole else fitted[first : first + 1]
        settings = {**options, "axes": axes, "pixel_size": pixel_size, "dtype": dtype, "fitted": numbers}
        blocks[at] = da.from_delayed(work(source[reads], model, keeps, settings), lengths, dtype)
    return da.block(blocks.tolist())


def _block(part: Any, model: Model, keeps: tuple[slice, ...], settings: dict[str, Any]) -> Any:
    return restore(part, model, **settings)[keeps]
