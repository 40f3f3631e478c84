"""The binding: every function of the header, errors, callbacks, memory."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import napari_mdr
import numpy as np
import pytest
from conftest import mean_model, noisy
from napari_mdr import Cancelled, MdrError, Model, _native, restore

HEADER = Path(__file__).parents[3] / "include" / "mdr.h"


def test_every_function_of_the_header_is_bound():
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    names = set(re.findall(r"^(mdr_\w+) \(", text, flags=re.M))
    assert names == set(_native.FUNCTIONS)
    for name, (_, arguments) in _native.FUNCTIONS.items():
        declared = re.search(rf"^{name} \((.*?)\);", text, flags=re.M | re.S)[1]
        declared = re.sub(r"\(\*\w+\)\([^)]*\)", "", declared)
        count = 0 if declared.strip() == "void" else declared.count(",") + 1
        assert len(arguments) == count, name
    assert f"#define MDR_ABI_VERSION {_native.ABI_VERSION}\n" in text


def test_another_abi_is_refused(tmp_path):
    code = "import napari_mdr._native"
    environment = {**os.environ, "MDR_LIBRARY": str(tmp_path / "none.so")}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode and "napari-mdr: " in ended.stderr and "install" in ended.stderr


def test_no_napari_and_no_qt_is_needed():
    code = "import sys, napari_mdr; assert not {'napari', 'qtpy', 'dask'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version():
    assert napari_mdr.__version__ == napari_mdr.version() == "0.1.0"


def test_errors_have_the_engines_words():
    with pytest.raises(MdrError, match="deblur.*denoise, axial") as caught:
        Model.builtin("deblur")
    assert caught.value.status == 4


def test_errors_of_options_and_shapes():
    image = noisy(8, 9)
    with pytest.raises(MdrError, match="tille"):
        restore(image, tille=3)
    with pytest.raises(ValueError, match="2 dimensions"):
        restore(image, axes="ZYX")
    with pytest.raises(MdrError, match="axes"):
        restore(image, axes="AB")
    with pytest.raises(ValueError, match="NUL"):
        restore(image, axes="Y\0")
    with pytest.raises(TypeError, match="complex"):
        restore(image.astype(complex))
    with pytest.raises(TypeError, match="float64"):
        restore(image, dtype=float)
    with pytest.raises(ValueError, match="shape"):
        restore(image, out=np.empty((3, 3), np.float32))
    with pytest.raises(MdrError, match="length of X is 0"):
        restore(np.empty((3, 0)))
    with pytest.raises(MdrError, match="no/such/file"):
        Model.load("no/such/file.onnx")
    with pytest.raises(MdrError, match="rubbish"):
        Model.from_bytes(b"", "rubbish")


def test_what_exceeds_the_memory_limit_is_refused_before_memory_is_taken():
    code = """
import resource
import numpy as np
from napari_mdr import MdrError, restore

class Huge:
    shape, dtype = (30000, 30000), np.dtype("u2")

class Out:
    shape, dtype = (30000, 30000), np.dtype("f4")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

restore(np.zeros((64, 64), "u2"))
before = peak()
try:
    restore(Huge(), out=Out())
except MdrError as error:
    print(error)
print((peak() - before) // 1024, "MB")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    message, memory = ended.stdout.splitlines()
    assert "memory limit 2048 MB" in message
    if sys.platform == "linux":
        assert int(memory.split()[0]) < 100


def test_models_are_freed():
    content = mean_model()

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
        return pages * 4096

    image = noisy(64, 64)
    for _ in range(3):
        restore(image, Model.from_bytes(content))
    gc.collect()
    before = resident()
    for _ in range(200):
        restore(image, Model.from_bytes(content))
    gc.collect()
    assert resident() - before < 32 << 20


def test_an_exception_of_a_callback_comes_through():
    calls = []

    def progress(done, total):
        calls.append(done)
        if done >= 200:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        restore(noisy(8, 64, 64), progress=progress)
    assert calls[-1] >= 200 and max(calls[:-1]) < 200, "none comes after the exception"

    class Broken:
        shape, dtype = (4, 32, 32), np.dtype("u2")

        def __getitem__(self, key):
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        restore(Broken())


def test_false_cancels():
    with pytest.raises(Cancelled):
        restore(noisy(8, 64, 64), progress=lambda done, total: done < 300)
    # None, which is what a function without `return` gives, does not.
    seen = []
    restore(noisy(2, 64, 64), progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] == 200
