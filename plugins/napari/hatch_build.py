"""Wheel hook: builds libmdr with cargo, puts it into the package, and writes the manifest that fits it.

The environment variable MDR_LIBRARY names a library that is built already. The manifest offers a menu item for each
model that is built into the library, which the library is asked for: `napari.yaml` beside this file has them all.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


class LibraryHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = Path(os.environ.get("MDR_LIBRARY") or build()).resolve()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        # An editable install runs from this folder, a wheel from what is put into it.
        if version == "editable":
            folder = HERE / "src" / "napari_mdr"
        else:
            self.folder = tempfile.TemporaryDirectory()
            folder = Path(self.folder.name)
        shutil.copy2(library, folder / library.name)
        (folder / "napari.yaml").write_text(manifest(library))
        if version != "editable":
            names = [library.name, "napari.yaml"]
            build_data["force_include"].update({str(folder / name): f"napari_mdr/{name}" for name in names})
            for name in ["LICENSE-MIT", "LICENSE-APACHE"]:
                build_data["force_include"][str(REPOSITORY / name)] = f"napari_mdr/{name}"


def build() -> str:
    """Path of a library built now."""
    profile = os.environ.get("MDR_CARGO_PROFILE", "dist")
    command = ["cargo", "build", "--lib", "--profile", profile, "--message-format=json-render-diagnostics"]
    try:
        built = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise SystemExit(
            "napari-mdr is built with Rust: install it from https://rustup.rs, or set MDR_LIBRARY"
        ) from None
    if built.returncode:
        raise SystemExit("cargo could not build libmdr; its messages are above")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "mdr":
            for path in message["filenames"]:
                if path.endswith((".so", ".dylib", ".dll")):
                    return str(path)
    raise SystemExit("cargo has built no shared library")


def manifest(library: Path) -> str:
    """The manifest without the lines that belong to a task which has no built-in model."""
    lib = ctypes.CDLL(str(library))
    lib.mdr_builtin_models.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(1 << 20)
    if lib.mdr_builtin_models(buffer, len(buffer), None):
        raise SystemExit(f"{library} does not list its models")
    tasks = {model["task"] for model in json.loads(buffer.value)}
    lines = (HERE / "napari.yaml").read_text().splitlines(keepends=True)
    task = re.compile(r"# task: (\S+)$")
    return "".join(line for line in lines if not (found := task.search(line.strip())) or found[1] in tasks)
