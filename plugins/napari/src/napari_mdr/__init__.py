"""Restores fluorescence micrographs: numpy in, numpy out. No napari is needed for what is here.

>>> from napari_mdr import Model, restore
>>> restored = restore(noisy)                                     # the built-in model for `denoise`
>>> restored = restore(stack, Model.load("my.onnx"), axes="ZYX")  # a model of your own
"""

from napari_mdr._blocks import restore_blocks
from napari_mdr._model import Model, Options, fit, output_info, restore
from napari_mdr._native import Cancelled, MdrError, version

__all__ = ["Cancelled", "MdrError", "Model", "Options", "fit", "output_info", "restore", "restore_blocks", "version"]
__version__ = version()
