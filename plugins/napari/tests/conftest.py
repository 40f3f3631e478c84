"""What the tests share: images, the command line to compare with, and a real napari viewer with its menus."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile


def noisy(*shape: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Stripes with photon noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(shape[-1])
    return rng.poisson(20 + 15 * np.sin(x / 5), shape).astype(np.uint16)


class Stored:
    """An array that is not in memory, as far as one can tell: notes how many samples are read at a time."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.read: list[int] = []

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        found = self.array[key]
        self.read.append(found.size)
        return found


def network(nodes: list[Any], constants: dict[str, Any], metadata: dict[str, str], channels: int = 1) -> bytes:
    """An .onnx file that takes and gives N, C, Y, X."""
    from onnx import TensorProto, helper, numpy_helper

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, f"{name}_y", f"{name}_x"])
        for name in ("image", "restored")
    ]
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


def mean_model(task: str | None = "denoise", name: str = "mean of 3x3") -> bytes:
    """The mean of 3×3 pixels; without a task, a foreign model."""
    from onnx import helper

    facts = {"mdr.format": "1", "mdr.task": task, "mdr.name": name, "mdr.trained_on": "nothing"} if task else {}
    nodes = [helper.make_node("Conv", ["image", "weight"], ["restored"], pads=[1] * 4)]
    return network(nodes, {"weight": np.full((1, 1, 3, 3), 1 / 9)}, facts)


def mixing_model() -> bytes:
    """The mean of two channels, twice."""
    from onnx import helper

    nodes = [helper.make_node("Conv", ["image", "weight"], ["restored"])]
    return network(nodes, {"weight": np.full((2, 2, 1, 1), 0.5)}, {"mdr.format": "1", "mdr.channels": "2"}, 2)


def upsampling_model() -> bytes:
    """Each pixel becomes 2×2."""
    from onnx import helper

    nodes = [
        helper.make_node(
            "Resize",
            ["image", "", "scales"],
            ["restored"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    ]
    return network(nodes, {"scales": [1, 1, 2, 2]}, {"mdr.format": "1", "mdr.task": "super-resolve"})


@pytest.fixture(scope="session")
def mdr() -> str:
    """The command line of the same build."""
    program = os.environ.get("MDR") or shutil.which("mdr")
    if program is None:
        if os.environ.get("MDR_REQUIRE_TOOLS"):
            pytest.fail("MDR names no command line")
        pytest.skip("no command line: set MDR to it")
    return program


@pytest.fixture
def command_line(mdr: str, tmp_path: Path) -> Callable[..., np.ndarray[Any, Any]]:
    """Restores an array by way of TIFF files."""

    def restore(array: np.ndarray[Any, Any], axes: str, *options: str) -> np.ndarray[Any, Any]:
        tifffile.imwrite(tmp_path / "in.tif", array, imagej=True, metadata={"axes": axes})
        files = [str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif"), "--force", "--quiet"]
        subprocess.run([mdr, "restore", *files, *options], check=True)
        return tifffile.imread(tmp_path / "out.tif")

    return restore


@pytest.fixture(autouse=True)
def settings_of_its_own(tmp_path: Path) -> None:
    """Each test starts without remembered settings, and leaves the user's alone."""
    try:
        from qtpy.QtCore import QSettings
    except Exception:  # no Qt: the tests of the numpy interface
        return
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings"))


def menu_action(viewer: Any, *path: str) -> Any:
    """A menu item, found as a user finds it, with its menus refreshed."""
    menu = viewer.window.layers_menu
    for title in path:
        menu.aboutToShow.emit()
        # napari adds the plug-in's name to the title of a command.
        found = {action.text().replace("&", "").removesuffix(" (MDR Restore)"): action for action in menu.actions()}
        assert title in found, f"{title} is not among {list(found)}"
        action = found[title]
        menu = action.menu()
    return action
