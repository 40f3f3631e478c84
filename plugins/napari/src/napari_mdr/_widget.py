"""The widget *Restore settings*: which image, which model, what of it, a preview, and the run.

It shows what the engine says (facts of the model, shape of the result, errors) and decides nothing itself: an option
that the user leaves alone is not sent. All work is done in threads (`_run`); the widget's own methods return at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.utils.notifications import show_error
from qtpy.QtCore import QSettings, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_mdr._blocks import together
from napari_mdr._commands import TITLES, add
from napari_mdr._layers import Source, axes_of, restored_layer, source
from napari_mdr._model import Model, output_info
from napari_mdr._native import MdrError
from napari_mdr._preview import Preview
from napari_mdr._run import InThread, Run

if TYPE_CHECKING:
    import napari

PREVIEW = "mdr preview"
#: Milliseconds without a change after which the preview is made.
PREVIEW_DELAY_MS = 120
BUILTIN, FILE = "built-in", "choose a file…"


class RestoreWidget(QWidget):
    """Restores an image layer with settings of the user's choice."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._model: Model | None = None
        #: Stands for the model file that is being loaded, if one is.
        self._loading: object = None
        self._run: Run | None = None
        self._preview = Preview()
        self._preview_run: Any = None
        self._preview_again = False
        self._axes_of: Any = None
        self._recalled = BUILTIN
        self._remembered = ""
        self._build()
        self._timer = QTimer(self, interval=PREVIEW_DELAY_MS, singleShot=True)
        self._timer.timeout.connect(self._start_preview)
        self._recall()
        self._list_layers()
        self._connect()
        self._choose_model(self._recalled)

    # The form.

    def _build(self) -> None:
        self.image = QComboBox()
        self.task = QComboBox()
        for task, title in TITLES.items():
            self.task.addItem(title, task)
        self.model = QComboBox()
        self.facts = QLabel()
        self.facts.setWordWrap(True)
        self.facts.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.extent = QComboBox()
        self.extent.addItem("whole image", True)
        self.extent.addItem("current plane", False)
        self.axes = QLineEdit()
        self.axes.setToolTip("One letter for each axis: T time, C channel, Z, Y, X")
        self.understood = QLabel()
        self.understood.setWordWrap(True)
        self.channel = QComboBox()
        self.pixel_size, self.z_step = QLineEdit(), QLineEdit()
        for edit in (self.pixel_size, self.z_step):
            edit.setPlaceholderText("unknown")
            edit.setToolTip("In µm; read off the layer's scale where you leave it empty. Axial restoration needs it.")
        self.tile, self.overlap, self.threads, self.memory = (QSpinBox() for _ in range(4))
        for box, highest, unit in (
            (self.tile, 16384, " px"),
            (self.overlap, 4096, " px"),
            (self.threads, 1024, ""),
            (self.memory, 1 << 20, " MB"),
        ):
            box.setRange(0, highest)
            box.setSpecialValueText("auto")
            box.setSuffix(unit)
        self.ensemble = QCheckBox("Self-ensemble")
        self.ensemble.setToolTip(
            "The mean of the results for the image flipped and turned in eight ways (axial: four): slightly better, "
            "in as many times the time"
        )
        self.preview = QCheckBox("Preview of the visible region")
        self.expert = QCheckBox("Expert settings")
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.cancel_button.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.status = QLabel()
        self.status.setWordWrap(True)

        form = QFormLayout()
        form.addRow("Image", self.image)
        form.addRow("Task", self.task)
        form.addRow("Model", self.model)
        form.addRow(self.facts)
        form.addRow("Restore", self.extent)
        form.addRow("Axes", self.axes)
        form.addRow(self.understood)
        form.addRow("Channel", self.channel)
        form.addRow("Pixel size (µm)", self.pixel_size)
        form.addRow("Z step (µm)", self.z_step)
        self._form = form
        self.expert_settings = QWidget()
        expert = QFormLayout(self.expert_settings)
        expert.setContentsMargins(0, 0, 0, 0)
        for title, box in (
            ("Tile", self.tile),
            ("Overlap", self.overlap),
            ("Threads", self.threads),
            ("Memory limit", self.memory),
        ):
            expert.addRow(title, box)
        expert.addRow(self.ensemble)
        self.expert_settings.setVisible(False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.expert)
        layout.addWidget(self.expert_settings)
        layout.addWidget(self.preview)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addStretch()

    def _connect(self) -> None:
        layers = self._viewer.layers
        for event in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            event.connect(self._list_layers)
        layers.events.removed.connect(self._layer_removed)
        layers.selection.events.active.connect(self._follow_active)
        scene = getattr(self._viewer, "scene", self._viewer)  # napari 0.9 has moved the camera there
        scene.camera.events.connect(self._ask_preview)
        self._viewer.dims.events.current_step.connect(self._ask_preview)
        self._viewer.dims.events.ndisplay.connect(self._ask_preview)
        self.image.currentIndexChanged.connect(self._image_chosen)
        self.task.currentIndexChanged.connect(self._task_chosen)
        self.model.activated.connect(self._model_chosen)
        for box in (self.extent, self.channel):
            box.currentIndexChanged.connect(self._changed)
        for edit in (self.axes, self.pixel_size, self.z_step):
            edit.editingFinished.connect(self._changed)
        for box in (self.tile, self.overlap, self.threads, self.memory):
            box.valueChanged.connect(self._changed)
        self.ensemble.toggled.connect(self._changed)
        self.expert.toggled.connect(self.expert_settings.setVisible)
        self.expert.toggled.connect(self._remember)
        self.preview.toggled.connect(self._preview_toggled)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        state = self.__dict__
        self.destroyed.connect(lambda: _cancel_all(state))

    # The image.

    @property
    def layer(self) -> Image | None:
        """The chosen layer."""
        chosen: Image | None = self.image.currentData()
        return chosen

    def _list_layers(self, event: Any = None) -> None:
        chosen = self.layer
        layers = [layer for layer in self._viewer.layers if isinstance(layer, Image) and layer.name != PREVIEW]
        self.image.blockSignals(True)
        self.image.clear()
        for layer in layers:
            self.image.addItem(layer.name, layer)
        active = self._viewer.layers.selection.active
        wanted = chosen if chosen in layers else active if active in layers else layers[-1] if layers else None
        if wanted is not None:
            self.image.setCurrentIndex(layers.index(wanted))
        self.image.blockSignals(False)
        self._image_chosen()

    def _layer_removed(self, event: Any) -> None:
        if event.value.name == PREVIEW:  # by the user, who is done with it
            self.preview.setChecked(False)

    def _follow_active(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        at = self.image.findData(active) if active is not None else -1
        if at >= 0 and "mdr" not in active.metadata:
            self.image.setCurrentIndex(at)

    def _image_chosen(self, index: int = 0) -> None:
        if self.layer is not self._axes_of:
            self._axes_of = self.layer
            try:
                self.axes.setText(axes_of(self.layer) if self.layer is not None and not self.layer.rgb else "")
            except ValueError:  # said where the image is explained
                self.axes.setText("")
        self._changed()

    def source(self) -> Source:
        """The chosen image as the engine sees it, or a ValueError."""
        if self.layer is None:
            raise ValueError("no image is open: open one, or File ▸ Open Sample ▸ MDR Restore")
        return source(self.layer, self.axes.text() or None)

    def _position(self, image: Source) -> dict[str, int]:
        """Indices of the plane that is shown."""
        layer = self.layer
        assert layer is not None
        point = layer.world_to_data(self._viewer.dims.point[-layer.ndim :])
        indices = {}
        for letter, at, length in zip(image.axes, point, image.shape, strict=True):
            if letter in "TCZ":
                indices[letter] = min(max(round(float(at)), 0), length - 1)
        return indices

    def _window(self, image: Source) -> dict[str, tuple[int, int]]:
        """What is visible of Y and X, in pixels of the full resolution."""
        layer = self.layer
        assert layer is not None
        corners = layer.corner_pixels
        factors = layer.downsample_factors[layer.data_level] if layer.multiscale else [1] * layer.ndim
        window = {}
        for at, letter in enumerate(image.axes):
            if letter in "YX":
                first, last = (round(float(corner[at] * factors[at])) for corner in corners)
                first, last = max(0, min(first, last)), min(image.shape[at], max(first, last) + 1)
                window[letter] = (first, last) if last > first else (0, image.shape[at])
        return window

    # The model.

    def _task_chosen(self, index: int = 0) -> None:
        if self._model is not None and self._model.info["task"] is None:
            self._changed()  # a file that leaves the task open
        else:
            self._choose_model()

    def _list_models(self, chosen: str) -> None:
        """The model box: built-in, where there is one, the file that was chosen, and the way to another one."""
        self.model.blockSignals(True)
        self.model.clear()
        task = self.task.currentData()
        if any(facts["task"] == task for facts in Model.builtins()):
            self.model.addItem(BUILTIN, BUILTIN)
        if chosen not in (BUILTIN, FILE):
            self.model.addItem(Path(chosen).name, chosen)
        self.model.addItem(FILE, FILE)
        self.model.setCurrentIndex(max(0, self.model.findData(chosen)))
        self.model.blockSignals(False)

    def _choose_model(self, chosen: str = BUILTIN) -> None:
        self._list_models(chosen)
        current = self.model.currentData()
        if current == BUILTIN:
            self._use_model(Model.builtin(self.task.currentData()))
        elif current == FILE:
            self._use_model(None)
        else:
            self._load(current)

    def _load(self, path: str) -> None:
        """Until the file is loaded there is no model; what comes after another one was chosen is not used."""
        loading = object()
        self._use_model(None, loading)

        def if_wanted(use: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda found: use(found) if self._loading is loading else None

        InThread(self, lambda: Model.load(path), if_wanted(self._use_model), if_wanted(self._model_refused))

    def _model_chosen(self, index: int) -> None:
        chosen = self.model.currentData()
        if chosen == FILE:
            chosen, _ = QFileDialog.getOpenFileName(
                self, "Model", "", "Models (*.onnx *.zip rdf.yaml bioimageio.yaml);;All files (*)"
            )
        self._choose_model(chosen or BUILTIN)

    def load_model(self, path: str) -> None:
        """Chooses a model file."""
        self._choose_model(path)

    def _model_refused(self, message: str) -> None:
        show_error(message)
        self._choose_model()

    def _use_model(self, model: Model | None, loading: object = None) -> None:
        self._model, self._loading = model, loading
        if model is not None and model.info["task"] is not None:
            self.task.blockSignals(True)
            self.task.setCurrentIndex(self.task.findData(model.info["task"]))
            self.task.blockSignals(False)
        self.facts.setText("loading…" if loading else described(model))
        self._changed()

    # Settings.

    def options(self) -> dict[str, Any]:
        """Options of the engine, those that are set."""
        found = {
            "tile": self.tile.value() or None,
            "overlap": self.overlap.value() or None,
            "threads": self.threads.value() or None,
            "memory_limit_mb": self.memory.value() or None,
            "self_ensemble": self.ensemble.isChecked() or None,
            "channel": self.channel.currentData(),
            "pixel_size_um": length_um(self.pixel_size.text(), "pixel size"),
            "z_step_um": length_um(self.z_step.text(), "z step"),
        }
        if self._model is not None and self._model.info["task"] is None:
            found["task"] = self.task.currentData()
        return {name: value for name, value in found.items() if value is not None}

    def _changed(self, *_: Any) -> None:
        """Something was chosen: shows what the engine makes of it."""
        self._list_channels()
        self.understood.setText(self._explain())
        self.run_button.setEnabled(self._run is None and self.layer is not None and self._model is not None)
        self._remember()
        self._ask_preview()

    def _list_channels(self) -> None:
        try:
            image = self.source()
            count = image.shape[image.axes.index("C")] if "C" in image.axes else 0
        except ValueError:
            count = 0
        if self.channel.count() != (count + 1 if count else 0):
            self.channel.blockSignals(True)
            self.channel.clear()
            if count:
                self.channel.addItem("each on its own", None)
                for number in range(count):
                    self.channel.addItem(str(number), number)
            self.channel.blockSignals(False)
        for box in (self.channel, self._form.labelForField(self.channel)):
            box.setVisible(count > 0)

    def _explain(self) -> str:
        """The image as the engine understands it, and what it will make of it; or why it refuses."""
        try:
            image = self.source()
            for edit, size in ((self.pixel_size, image.pixel_size_um), (self.z_step, image.z_step_um)):
                edit.setPlaceholderText(f"{size:g}" if size else "unknown")
            lengths = " × ".join(f"{length} {letter}" for letter, length in zip(image.axes, image.shape, strict=True))
            if self._loading is not None:
                return lengths
            if self._model is None:
                return f"{lengths}; choose a model file: no model for this task is built in"
            options = self.options()
            size, step = options.pop("pixel_size_um", image.pixel_size_um), options.pop("z_step_um", image.z_step_um)
            info = output_info(self._model, image.axes, image.shape, pixel_size=(step, size), **options)
        except (ValueError, MdrError) as error:
            return str(error)
        result = " × ".join(str(length) for length in info["shape"])
        text = lengths if tuple(info["shape"]) == image.shape else f"{lengths} → {result}"
        return f"{text}; {info['caution']}" if info["caution"] else text

    def _settings(self) -> QSettings:
        return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "mdr", "napari-mdr")

    def _remember(self) -> None:
        kept = {
            "task": self.task.currentData(),
            "model": self.model.currentData(),
            "whole": self.extent.currentData(),
            "expert": self.expert.isChecked(),
            "ensemble": self.ensemble.isChecked(),
            **{name: getattr(self, name).value() for name in ("tile", "overlap", "threads", "memory")},
        }
        text = json.dumps(kept)
        if text != self._remembered:  # Qt waits for the disk, in this thread
            self._remembered = text
            self._settings().setValue("last", text)

    def _recall(self) -> None:
        try:
            kept = json.loads(str(self._settings().value("last", "{}")))
            self.task.setCurrentIndex(max(0, self.task.findData(kept.get("task"))))
            self.extent.setCurrentIndex(max(0, self.extent.findData(kept.get("whole", True))))
            self.expert.setChecked(bool(kept.get("expert", False)))
            self.expert_settings.setVisible(self.expert.isChecked())
            self.ensemble.setChecked(bool(kept.get("ensemble", False)))
            for name in ("tile", "overlap", "threads", "memory"):
                getattr(self, name).setValue(int(kept.get(name, 0)))
            model = kept.get("model")
        except (ValueError, TypeError, AttributeError):
            return  # settings of another version, or damaged: the defaults stand
        if isinstance(model, str) and Path(model).exists():
            self._recalled = model

    # The run.

    def run(self) -> None:
        """Restores the image and adds the result to the viewer."""
        try:
            image, options, model = self.source(), self.options(), self._model
        except ValueError as error:
            show_error(str(error))
            return
        if model is None or self._run is not None:
            return
        if not self.extent.currentData():
            kept = together(model, options.get("task") or model.info["task"])
            image = image.plane({letter: at for letter, at in self._position(image).items() if letter not in kept})
            options.pop("channel", None)
        title = f"{self.task.currentText()}: {image.name}"
        self._run = Run(title, lambda progress: restored_layer(image, model, options, progress))
        self._run.done.connect(self._add)
        self._run.reported.connect(self._report)
        self._run.ended.connect(self._ended)
        self.run_button.setEnabled(False)
        self.cancel_button.setEnabled(True)
        self.bar.setRange(0, 0)
        self.bar.setVisible(True)
        self.status.setText("starting…")
        self._run.start()

    def cancel(self) -> None:
        """Stops the run soon."""
        if self._run is not None:
            self.status.setText("cancelling…")
            self._run.cancel()

    def _report(self, done: int, total: int, remaining: float | None) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        if self._run is not None and not self._run.cancelled:
            text = f"{100 * done // total} %" if total else "starting…"
            self.status.setText(text if remaining is None else f"{text}, {seconds(remaining)} left")

    def _add(self, result: tuple[Any, dict[str, Any], str]) -> None:
        self.preview.setChecked(False)
        add(self._viewer, result)
        self.status.setText("done")

    def _ended(self) -> None:
        if self.status.text() != "done":
            cancelled = self._run is not None and self._run.cancelled
            self.status.setText("cancelled" if cancelled else "failed; the message says why")
        self._run = None
        self.bar.setVisible(False)
        self.cancel_button.setEnabled(False)
        self._changed()

    # The preview.

    def _preview_toggled(self, on: bool) -> None:
        if on:
            self._preview = Preview()  # pixels may have been changed in place since the last one
            self._ask_preview()
        else:
            self._timer.stop()
            if PREVIEW in self._viewer.layers:
                self._viewer.layers.remove(PREVIEW)

    def _ask_preview(self, event: Any = None) -> None:
        if self.preview.isChecked():
            self._timer.start()

    def _start_preview(self) -> None:
        if not self.preview.isChecked() or self._model is None:
            return
        if self._preview_run is not None:
            # One at a time: what was asked for last is made when the present one has stopped.
            self._preview_again = True
            return
        if self._viewer.dims.ndisplay != 2:
            self.status.setText("the preview is of planes: leave the 3-D view")
            return
        try:
            image, options, model = self.source(), self.options(), self._model
            position, window = self._position(image), self._window(image)
        except ValueError as error:
            self.status.setText(str(error))
            return
        whole = bool(self.extent.currentData())
        self._preview_run = InThread(
            self,
            lambda: self._preview.restore(
                image, position, window, whole, model, options, lambda *_: not self._preview_again
            ),
            self._show_preview,
            self._preview_refused,
        )

    def _preview_ended(self) -> None:
        self._preview_run = None
        if self._preview_again:
            self._preview_again = False
            self._ask_preview()

    def _preview_refused(self, message: str) -> None:
        if not self._preview_again:
            self.status.setText(message)
        self._preview_ended()

    def _show_preview(self, result: tuple[Any, dict[str, Any]]) -> None:
        if self.preview.isChecked():
            data, properties = result
            if PREVIEW in self._viewer.layers:
                layer = self._viewer.layers[PREVIEW]
                layer.data = data
                for name in ("scale", "translate", "contrast_limits"):
                    setattr(layer, name, properties[name])
            else:
                active = self._viewer.layers.selection.active
                self._viewer.add_image(data, name=PREVIEW, metadata={"mdr": "preview"}, **properties)
                self._viewer.layers.selection.active = active
        self._preview_ended()


def _cancel_all(state: dict[str, Any]) -> None:
    """What a widget that is gone leaves running."""
    if state.get("_run") is not None:
        state["_run"].cancel()
    state["_preview_again"] = True


def described(model: Model | None) -> str:
    """A model in a few lines, for people."""
    if model is None:
        return ""
    info = model.info
    lines = [f"<b>{info['name']}</b>, {info['task'] or 'task not stated'}"]
    if info["trained_on"]:
        lines.append(f"trained on {info['trained_on']}")
    lines += (info["scores"] or "").splitlines()
    return "<br>".join(lines)


def length_um(text: str, name: str) -> float | None:
    """A length that was typed; None where nothing was."""
    if not text.strip():
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"{name} {text!r}: expected a number, in µm") from None


def seconds(time: float) -> str:
    """A time to wait, for people."""
    return f"{time:.0f} s" if time < 100 else f"{time / 60:.0f} min"
