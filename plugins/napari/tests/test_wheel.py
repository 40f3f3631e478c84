"""The wheel, installed into an environment that has nothing else, is used there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import noisy
from napari_mdr import Model, restore

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if not os.environ.get("MDR_LIBRARY"):
        pytest.skip("MDR_LIBRARY names no library to build the wheel with")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(PROJECT)], check=True)
    (found,) = folder.iterdir()
    return found


def test_what_is_in_it(wheel):
    assert wheel.name.startswith("napari_mdr-") and "-py3-none-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert sum("libmdr" in name or name.endswith("mdr.dll") for name in names) == 1
        assert {"napari_mdr/napari.yaml", "napari_mdr/py.typed", "napari_mdr/LICENSE-MIT"} <= set(names)
        manifest = archive.read("napari_mdr/napari.yaml").decode()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    tasks = {model["task"] for model in Model.builtins()}
    for task in ("denoise", "axial", "super-resolve"):
        assert (f"napari-mdr.{task.replace('-', '_')}," in manifest) == (task in tasks)
    needs = [line for line in metadata.lower().splitlines() if line.startswith("requires-dist: ")]
    assert not any("pyqt" in line or "pyside" in line for line in needs)
    assert any(line.startswith("requires-dist: numpy") for line in needs)


def test_in_an_empty_environment(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True)
    image = noisy(3, 64, 70)
    np.save(tmp_path / "in.npy", image)
    code = "import numpy, napari_mdr; numpy.save('out.npy', napari_mdr.restore(numpy.load('in.npy')))"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MDR", "PYTHON"))}
    subprocess.run([str(scripts / "python"), "-c", code], cwd=tmp_path, env=kept, check=True)
    assert np.array_equal(np.load(tmp_path / "out.npy"), restore(image))
