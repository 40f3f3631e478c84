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
