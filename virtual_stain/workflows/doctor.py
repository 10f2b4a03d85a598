"""`vstain doctor`: what is installed, what loads, what is missing and the command that mends it.

Every library is loaded in a process of its own, so that one which is broken, hangs or aborts shows as such.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from virtual_stain.errors import ConfigError
from virtual_stain.installation import EXTRAS, debian_package, install_command, missing_library
from virtual_stain.parallel import available_cores
from virtual_stain.patients import ENVIRONMENT_NAME, default_key_path
from virtual_stain.version import __version__

_TIMEOUT_S = 180.0
_LEAST_MEMORY_GB = 4.0


@dataclass(frozen=True, slots=True)
class Probe:
    """A library and how it is proven to work."""

    name: str
    distribution: str
    code: str
    """Python that prints one line about it."""
    needed_for: str
    needed: bool = True
    extra: str | None = None
    """The extra that it belongs to."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
    """The command that mends it."""
    needed: bool = True

    def text(self) -> str:
        mark = "ok     " if self.ok else ("MISSING" if self.needed else "absent ")
        mend = f"\n{' ' * 10}→ {self.mend}" if self.mend and not self.ok else ""
        return f"{mark}   {self.name:<14} {self.detail}{mend}"


_TF_CODE = """
import os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
devices = [d.device_type + ("" if d.device_type == "CPU" else " " + str(tf.config.experimental.get_device_details(d)
    .get("device_name", ""))) for d in tf.config.list_physical_devices()]
print(f"tensorflow {tf.__version__}, keras {__import__('keras').__version__}, devices: {', '.join(devices)}")
"""


def _extra_probes() -> tuple[Probe, ...]:
    """One for each extra: whether what it brings can be loaded."""
    return tuple(
        Probe(
            f"extra {extra.name}",
            "virtual-stain",
            "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
            f"import importlib\nfor name in {extra.modules!r}:\n    importlib.import_module(name)\n"
            f"print({extra.purpose!r})",
            extra.purpose,
            False,
            extra.name,
        )
        for extra in EXTRAS
    )


PROBES = (
    Probe("numpy", "numpy", "import numpy as m; print(m.__version__)", "everything"),
    Probe(
        "openslide",
        "openslide-python",
        "import openslide as m; print(f'{m.__version__}, library {m.__library_version__}')",
        "reading slides",
    ),
    Probe("cv2", "opencv-python", "import cv2 as m; print(m.__version__)", "every picture"),
    Probe("h5py", "h5py", "import h5py as m; print(f'{m.__version__}, HDF5 {m.version.hdf5_version}')", "labels"),
    Probe("scipy", "scipy", "import scipy.ndimage, scipy as m; print(m.__version__)", "registration and counting"),
    Probe("skimage", "scikit-image", "import skimage as m; print(m.__version__)", "counting"),
    Probe("shapely", "shapely", "import shapely as m; print(m.__version__)", "regions drawn in QuPath"),
    Probe("simplejpeg", "simplejpeg", "import simplejpeg as m; print(m.__version__)", "finding damaged JPEG tiles"),
    Probe(
        "jsonschema_rs",
        "jsonschema-rs",
        "import importlib.metadata, jsonschema_rs; print(importlib.metadata.version('jsonschema-rs'))",
        "checking manifests, bundles and registrations",
    ),
    Probe("pandas", "pandas", "import pandas as m; print(m.__version__)", "tables in Python"),
    Probe("filelock", "filelock", "import filelock as m; print(m.__version__)", "locks of folders"),
    Probe("PIL", "pillow", "import PIL.Image, PIL as m; print(m.__version__)", "windows of slides"),
    Probe("tifffile", "tifffile", "import tifffile as m; print(m.__version__)", "TIFF files that OpenSlide refuses"),
    Probe("imagecodecs", "imagecodecs", "import imagecodecs as m; print(m.__version__)", "JPEG-tiled OME-TIFF"),
    Probe("matplotlib", "matplotlib", "import matplotlib as m; print(m.__version__)", "plots"),
    Probe("jinja2", "jinja2", "import jinja2 as m; print(m.__version__)", "HTML reports"),
    Probe("tensorflow", "tensorflow", _TF_CODE, "training and scoring"),
    Probe(
        "tensorflow_io",
        "tensorflow-io",
        "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        "import tensorflow_io as m; print(m.__version__, flush=True); os._exit(0)",
        "records on s3://, az://, http:// (local files do not need it)",
        False,
    ),
    *_extra_probes(),
)


def examine(
    environment: Mapping[str, str] | None = None,
    probes: tuple[Probe, ...] = PROBES,
    python: str = sys.executable,
) -> Iterator[Check]:
    """The checks in the order of the print, each as soon as it is known."""
    env = os.environ if environment is None else environment
    yield _python_check()
    for probe in probes:
        yield load_check(probe, env, python)
    yield _machine_check()
    yield _memory_check()
    yield _key_check(env)
    yield _weights_check(env)


def raise_on_missing(checks: list[Check]) -> None:
    """ConfigError when something needed is missing."""
    missing = [check.name for check in checks if check.needed and not check.ok]
    if missing:
        raise ConfigError(
            f"{len(missing)} needed part(s) missing or broken: {', '.join(missing)}.",
            hint="The lines above name the commands that mend them.",
        )


def load_check(probe: Probe, environment: Mapping[str, str], python: str = sys.executable) -> Check:
    """Loads one library in a process of its own."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [python, "-c", probe.code], capture_output=True, text=True, timeout=_TIMEOUT_S, env=dict(environment)
        )
    except subprocess.TimeoutExpired:
        return Check(
            probe.name,
            False,
            f"did not load within {_TIMEOUT_S:.0f} s",
            _mend(probe),
            probe.needed,
        )
    seconds = time.monotonic() - start
    if done.returncode == 0 and done.stdout.strip():
        return Check(probe.name, True, f"{done.stdout.strip().splitlines()[-1]} ({seconds:.1f} s)", None, probe.needed)
    return _failure(probe, done)


def _failure(probe: Probe, done: subprocess.CompletedProcess[str]) -> Check:
    text = done.stderr.strip()
    library = missing_library(text)
    if library is not None:
        package = debian_package(library)
        mend = f"sudo apt-get install {package}" if package else f"install the system library {library}"
        return Check(probe.name, False, f"{library} is missing; for {probe.needed_for}", mend, probe.needed)
    if probe.extra is not None and (absent := re.search(r"No module named '([\w.]+)'", text)):
        detail = f"not installed ({absent[1]}); for {probe.needed_for}"
    elif done.returncode < 0:
        detail = f"the process died with signal {-done.returncode}; for {probe.needed_for}"
    else:
        last = text.splitlines()[-1] if text else f"exit code {done.returncode}"
        detail = f"{last}; for {probe.needed_for}"
    return Check(probe.name, False, detail, _mend(probe), probe.needed)


def _mend(probe: Probe) -> str:
    return _reinstall(probe) if probe.extra is None else install_command(probe.extra)


def _reinstall(probe: Probe) -> str:
    """pip with the version range that this package declares."""
    try:
        declared = metadata.requires("virtual-stain") or []
    except metadata.PackageNotFoundError:
        declared = []
    wanted = next((d for d in declared if re.split(r"[^\w.-]", d)[0].lower() == probe.distribution), probe.distribution)
    return f"{sys.executable} -m pip install --force-reinstall '{wanted.split(';')[0].strip()}'"


def _python_check() -> Check:
    version = ".".join(str(v) for v in sys.version_info[:3])
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    detail = f"{version}, virtual-stain {__version__}, {sys.executable}"
    return Check("python", ok, detail, "install python3.12 or python3.11 and run make again")


def _machine_check() -> Check:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return Check("machine", True, f"{available_cores()} processor(s), {free_gb:.0f} GB free in this folder")


def _memory_check() -> Check:
    info = Path("/proc/meminfo")
    if not info.exists():
        return Check("memory", True, "unknown on this system", needed=False)
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB", info.read_text(), re.MULTILINE))
    total, available = (int(values.get(name, 0)) / 1e6 for name in ("MemTotal", "MemAvailable"))
    return Check(
        "memory",
        total >= _LEAST_MEMORY_GB,
        f"{total:.1f} GB, {available:.1f} GB available",
        f"at least {_LEAST_MEMORY_GB:.0f} GB are needed for training and scoring; use --jobs 1",
        needed=False,
    )


def _key_check(environment: Mapping[str, str]) -> Check:
    named = environment.get(ENVIRONMENT_NAME)
    path = Path(named) if named else default_key_path(environment)
    where = f"{path} ({ENVIRONMENT_NAME})" if named else str(path)
    if path.is_file() and os.access(path, os.R_OK):
        return Check("patient key", True, where)
    if named:
        return Check("patient key", False, f"{where} cannot be read", f"restore the file, or unset {ENVIRONMENT_NAME}")
    return Check("patient key", False, f"none yet; build-records will create {where}: keep a copy", None, needed=False)


def _weights_check(environment: Mapping[str, str]) -> Check:
    base = Path(environment.get("KERAS_HOME") or Path(environment.get("HOME") or Path.home()) / ".keras")
    found = sorted((base / "models").glob("inception_v3_weights*notop*"))
    if found:
        return Check("ImageNet", True, str(found[0]))
    return Check(
        "ImageNet",
        False,
        f"no InceptionV3 weights in {base / 'models'}; the first fit with weights = imagenet downloads 88 MB",
        "offline: --set model.weights=FILE, or none",
        needed=False,
    )
