"""One restoration in a thread of its own, with a bar in napari's activity dock that can cancel it.

The engine reports from the working thread; the GUI thread looks at the latest report ten times a second. So the GUI
never waits for the engine, nor the engine for the GUI, and napari's progress bar, which is a widget, is touched by the
GUI thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from napari.utils import cancelable_progress
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer, Signal

from napari_mdr._native import MdrError, OnProgress

INTERVAL_MS = 100


def outcome(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `work` returns, or the message of its error. Nothing is raised: napari would show where, not what; and
    whatever a lazily loaded image may raise, the run must end."""
    try:
        return work(), None
    except (MdrError, ValueError, TypeError, OSError, MemoryError) as error:
        return None, str(error) or type(error).__name__
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


class InThread(QObject):
    """Calls `work` in a thread, and then in the GUI thread `done` with what it returned, or `failed` with a message.
    Neither is called once `owner` is gone, of which this is a part."""

    def __init__(
        self, owner: QObject, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[str], None]
    ) -> None:
        super().__init__(owner)
        self._done, self._failed = done, failed
        self._worker: FunctionWorker[Any] = create_worker(outcome, work, _start_thread=False)
        self._worker.returned.connect(self._returned)
        self._worker.start()

    def _returned(self, outcome: tuple[Any, str | None]) -> None:
        result, message = outcome
        self.deleteLater()
        if message is None:
            self._done(result)
        else:
            self._failed(message)


class Run(QObject):
    """Calls `work(progress)` in a thread; what it returns goes to `done`, in the GUI thread."""

    #: What `work` returned.
    done = Signal(object)
    #: Work done, work in all, seconds that remain (None: unknown).
    reported = Signal(int, int, object)
    #: The last signal: whatever happened, the thread has ended.
    ended = Signal()

    #: Runs under way, which nobody else may keep.
    _alive: set[Run] = set()

    def __init__(self, title: str, work: Callable[[OnProgress], Any]) -> None:
        super().__init__()
        self._bar = cancelable_progress(total=0, desc=title)
        self._work = work
        self._report = (0, 0)
        self._shown = 0
        self._started = 0.0
        self._cancelled = False
        self._worker: FunctionWorker[Any] = create_worker(self._call, _start_thread=False)
        self._worker.returned.connect(self._returned)
        self._timer = QTimer(self, interval=INTERVAL_MS)
        self._timer.timeout.connect(self._look)

    def start(self) -> Run:
        Run._alive.add(self)
        self._worker.start()
        self._timer.start()
        return self

    def cancel(self) -> None:
        """Stops the run soon. Returns at once."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled or self._bar.is_canceled or self._worker.abort_requested

    # In the thread.

    def _progress(self, done: int, total: int) -> bool:
        if done == 0 or not self._started:
            self._started = time.monotonic()
        self._report = (done, total)
        return not self.cancelled

    def _call(self) -> tuple[Any, str | None]:
        return outcome(lambda: self._work(self._progress))

    # In the GUI thread.

    def _look(self) -> None:
        done, total = self._report
        if total and self._bar.total != total:
            self._bar.total = total
        if done > self._shown:
            self._bar.update(done - self._shown)
            self._shown = done
        remaining = (time.monotonic() - self._started) / done * (total - done) if done else None
        self.reported.emit(done, total, remaining)

    def _returned(self, outcome: tuple[Any, str | None]) -> None:
        self._timer.stop()
        self._bar.close()
        result, message = outcome
        if self.cancelled:
            pass
        elif message is None:
            self.done.emit(result)
        else:
            show_error(message)
        Run._alive.discard(self)
        self.ended.emit()
