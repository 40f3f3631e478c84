"""Prints how soon the first preview is there, how long the GUI thread is held up, and the memory taken, in a real
napari:

    xvfb-run -a -s "-screen 0 1400x900x24" python plugins/napari/tests/measure.py

A timer of the GUI thread should tick every 10 ms. Whatever delays a tick is looked at from another thread every 2 ms:
it is the plug-in's doing where the GUI thread is in a function of the plug-in that has not called napari, otherwise
napari's, or that of whoever else uses the processors. Memory is what the process has of its own, files that are mapped
not counted, above what it had before (Linux only).
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari_mdr._widget import PREVIEW, RestoreWidget
from qtpy.QtCore import QEventLoop, Qt, QTimer

TICK, LOOK = 0.010, 0.002


class Watch:
    """Longest pause between two ticks, and how much of a pause was the plug-in's at most, in seconds; memory in MB."""

    def __init__(self) -> None:
        self.pause = self.ours = self._ours = self.memory = 0.0
        self._memory_before = memory()
        self._last = time.perf_counter()
        self._gui = threading.get_ident()
        self._timer = QTimer(interval=round(1000 * TICK), timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._running = True

    def __enter__(self) -> Watch:
        self._timer.start()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._tick()
        self._timer.stop()
        self._running = False
        self._thread.join()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.pause = max(self.pause, now - self._last - TICK)
        self.ours = max(self.ours, self._ours)
        self._last, self._ours = now, 0.0

    def _look(self) -> None:
        before = time.perf_counter()
        looks = 0
        while self._running:
            time.sleep(LOOK)
            looks += 1
            if looks % 25 == 0:
                self.memory = max(self.memory, memory() - self._memory_before)
            now = time.perf_counter()
            if in_plugin(sys._current_frames().get(self._gui)):
                self._ours += now - before
            before = now


def memory() -> float:
    """MB that are the process's own."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def in_plugin(frame: Any) -> bool:
    """Whether a stack of calls has come through the plug-in and not to napari since."""
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in ("napari", "napari_mdr"):
            return package == "napari_mdr"
        frame = frame.f_back
    return False


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Runs the event loop until a condition holds, which is looked at every 10 ms."""
    until = time.perf_counter() + seconds
    loop = QEventLoop()
    timer = QTimer(interval=10)
    timer.timeout.connect(lambda: loop.quit() if condition() or time.perf_counter() > until else None)
    timer.start()
    loop.exec()
    if not condition():
        raise TimeoutError


def idle(seconds: float) -> None:
    until = time.perf_counter() + seconds
    wait(lambda: time.perf_counter() > until)


def measure(name: str, image: np.ndarray[Any, Any]) -> None:
    """One image: preview twice, a run that is cancelled, a run to its end, and napari alone with the same result."""

    def row(what: str, watch: Watch, text: str = "") -> None:
        times = f"{1000 * watch.pause:8.0f} ms {1000 * watch.ours:8.0f} ms {watch.memory:8.0f} MB"
        print(f"{name:22} {what:18} {times}   {text}", flush=True)

    viewer = napari.Viewer()
    viewer.add_image(image, name="image", contrast_limits=(0, 100))
    widget = RestoreWidget(viewer)
    viewer.window.add_dock_widget(widget)
    idle(1)
    layers = viewer.layers

    def preview(change: Callable[[], Any]) -> float:
        before = layers[PREVIEW].data if PREVIEW in layers else None
        started = time.perf_counter()
        change()
        wait(lambda: PREVIEW in layers and layers[PREVIEW].data is not before)
        return time.perf_counter() - started

    for what, change in (
        ("first preview", lambda: widget.preview.setChecked(True)),
        ("next preview", lambda: widget.tile.setValue(256)),
    ):
        with Watch() as watch:
            seconds = preview(change)
            idle(0.5)
        shape = "×".join(str(n) for n in layers[PREVIEW].data.shape)
        row(what, watch, f"{shape} after {seconds:.2f} s")
    widget.preview.setChecked(False)
    widget.tile.setValue(0)

    with Watch() as watch:
        widget.run_button.click()
        wait(lambda: widget._run is None or widget._run._report[0] > 0)
        asked = time.perf_counter()
        widget.cancel_button.click()
        wait(lambda: widget._run is None)
        row("run, cancelled", watch, f"{time.perf_counter() - asked:.2f} s after the click")

    with Watch() as watch:
        started = time.perf_counter()
        widget.run_button.click()
        wait(lambda: widget._run is None, 3600)
        seconds = time.perf_counter() - started
        idle(1)
    row("run", watch, f"{seconds:.2f} s")

    limits = layers[-1].contrast_limits
    with Watch() as watch:
        viewer.add_image(layers[-1].data, contrast_limits=limits)
        idle(1)
    row("napari alone", watch, "add_image of the same result")
    viewer.close()
    idle(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help="TIFF files to measure with; otherwise simulated noise")
    options = parser.parse_args()
    rng = np.random.default_rng(1)

    def noise(dtype: str, *shape: int) -> np.ndarray[Any, Any]:
        return np.resize(rng.poisson(20, (1, 1024, 1000)).astype(dtype), shape)

    def lazy(*shape: int) -> Any:
        """1.6 GB, of which no plane exists before it is asked for."""
        import dask.array as da

        return da.random.default_rng(1).poisson(20, shape, chunks=(1, *shape[1:])).astype("u2")

    if options.images:
        from tifffile import imread

        cases = [(path.name, lambda path=path: imread(path)) for path in options.images]
    else:
        cases = [
            ("uint16 512²", lambda: noise("u2", 512, 512)),
            ("uint16 2048²", lambda: noise("u2", 2048, 2048)),
            ("uint16 16×1024²", lambda: noise("u2", 16, 1024, 1024)),
            ("float32 8×2048²", lambda: noise("f4", 8, 2048, 2048)),
            ("dask uint16 200×2048²", lambda: lazy(200, 2048, 2048)),
        ]
    print(f"{'':41} {'pause':>11} {'plug-in':>11} {'memory':>11}")
    for name, image in cases:
        measure(name, image())


if __name__ == "__main__":
    main()
