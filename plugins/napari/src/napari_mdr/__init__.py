"""Restores fluorescence micrographs: numpy in, numpy out. No napari is needed for what is here.

>>> from napari_mdr import Model, restore
>>> restored = restore(noisy)                                     # the built-in model for `denoise`
>>> restored = restore(stack, Model.load("my.onnx"), axes="ZYX")  # a model of your own
"""

from napari_mdr._model import Model, Options, output_info, restore
from napari_mdr._native import Cancelled, MdrError, version

__all__ = ["Cancelled", "MdrError", "Model", "Options", "output_info", "restore", "version"]
__version__ = version()
