"""File ▸ Open Sample ▸ MDR Restore: images with the defect that each task restores, simulated by the engine."""

from __future__ import annotations

from typing import Any

from napari_mdr._native import sample

LayerData = tuple[Any, dict[str, Any], str]


def layers(task: str, name: str) -> list[LayerData]:
    image, info = sample(task)
    steps = {"Z": info["z_step_um"], "Y": info["pixel_size_um"], "X": info["pixel_size_um"]}
    properties = {
        "name": name,
        "scale": [steps[letter] for letter in info["axes"]],
        "units": ["µm"] * image.ndim,
        "axis_labels": list(info["axes"].lower()),
        "metadata": {"simulated": True},
    }
    return [(image, properties, "image")]


def noisy() -> list[LayerData]:
    return layers("denoise", "simulated noisy image")


def anisotropic() -> list[LayerData]:
    return layers("axial", "simulated anisotropic stack")


def blurred() -> list[LayerData]:
    return layers("super-resolve", "simulated blurred image")
