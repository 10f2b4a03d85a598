"""How this program was installed, its extras, and the commands that mend what is missing."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_DISTRIBUTION = "virtual-stain"
# what ships a missing shared library on Debian and Ubuntu
_DEBIAN = {
    "libGL.so": "libgl1",
    "libgthread-2.0.so": "libglib2.0-0",
    "libglib-2.0.so": "libglib2.0-0",
    "libSM.so": "libsm6",
    "libICE.so": "libice6",
    "libXext.so": "libxext6",
    "libXrender.so": "libxrender1",
    "libX11.so": "libx11-6",
    "libxcb.so": "libxcb1",
    "libopenslide.so": "libopenslide0",
    "libgomp.so": "libgomp1",
    "libstdc++.so": "libstdc++6",
    "libtiff.so": "libtiff6",
}


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part of the installation."""

    name: str
    purpose: str
    modules: tuple[str, ...]
    """What it imports."""


EXTRAS = (
    Extra("web", "pages in the browser: vstain review, vstain serve", ("fastapi", "uvicorn", "prometheus_client")),
    Extra("dicom", "vstain dicom: reports as DICOM SR and SEG", ("highdicom",)),
    Extra("serving", "scoring through a model server", ("tensorflow_serving.apis.predict_pb2", "httpx")),
    Extra("sign", "signatures of models", ("cryptography",)),
    Extra("openvino", "scoring with OpenVINO", ("openvino",)),
    Extra("svr", 'model.head = "svr"', ("sklearn",)),
    Extra("cluster", "--scheduler: many slides on a Dask or Slurm cluster", ("distributed", "dask_jobqueue")),
    Extra("gpu", "NVIDIA GPUs (CUDA libraries for TensorFlow)", ("nvidia.cudnn",)),
    Extra("bench", "comparing the registration with elastix", ("SimpleITK",)),
    Extra("dev", "tests and lint", ("pytest", "mypy", "hypothesis")),
)


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation, which knows where it came from (PEP 610)."""
    return f"{sys.executable} -m pip install {_requirement(extra)}"


def _requirement(extra: str) -> str:
    root = Path(__file__).resolve().parents[1]
    try:
        text = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return f"-e '{root}[{extra}]'"  # a source tree that was never installed
    if text is None:
        if (root / "setup.cfg").is_file():
            return f"-e '{root}[{extra}]'"
        return f"'{_DISTRIBUTION}[{extra}]=={metadata.version(_DISTRIBUTION)}'"
    origin = json.loads(text)
    url = str(origin.get("url", ""))
    place = url.removeprefix("file://") if url.startswith("file://") else ""
    if "vcs_info" in origin:
        commit = origin["vcs_info"].get("commit_id", "")
        return f"'{_DISTRIBUTION}[{extra}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}@{commit}'"
    if place and origin.get("dir_info", {}).get("editable"):
        return f"-e '{place}[{extra}]'"
    return f"'{place}[{extra}]'" if place else f"'{_DISTRIBUTION}[{extra}] @ {url}'"


def missing_library(text: str) -> str | None:
    """The shared library that a failed import names, e.g. "libGL.so.1"; None for other failures."""
    match = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file", text)
    return match.group(1) if match else None


def debian_package(library: str) -> str | None:
    """The Debian package of a shared library; None where it is not in our list."""
    return next((package for stem, package in _DEBIAN.items() if library.startswith(stem)), None)


def what_is_missing(error: BaseException) -> str | None:
    """The sentence for an import that failed for want of a library or package; None for any other error."""
    library = missing_library(str(error))
    if library is not None and isinstance(error, ImportError | OSError):
        package = debian_package(library)
        mend = f"sudo apt-get install {package}" if package else f"install the package that holds {library}"
        return (
            f"expected the system library {library}, which a Python package here needs. Received: it is missing.\n"
            f"  → {mend}  (vstain doctor checks all of them)"
        )
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("virtual_stain"):
        top = error.name.partition(".")[0]
        extra = next((e.name for e in EXTRAS if any(m.partition(".")[0] == top for m in e.modules)), None)
        mend = "vstain doctor names what mends it" if extra is None else install_command(extra)
        return f"expected the Python package {top}. Received: it is not installed here.\n  → {mend}"
    return None
