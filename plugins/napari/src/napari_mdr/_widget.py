from qtpy.QtWidgets import QWidget


class RestoreWidget(QWidget):
    def __init__(self, napari_viewer):
        super().__init__()
