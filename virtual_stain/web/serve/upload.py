"""Slides from browsers: off by default, limited in size and type, and kept only when they open."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from virtual_stain.config import WebSettings
from virtual_stain.errors import InputError, VirtualStainError
from virtual_stain.files import make_folder, output_errors
from virtual_stain.slides.companions import is_index
from virtual_stain.slides.openslide_source import is_many_files
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.web.problem import ApiError
from virtual_stain.web.serve.reach import is_dicom
from virtual_stain.web.serve.root import SUFFIXES, SlideRoot, is_plain_name

FOLDER = "uploads"
_KEPT_FREE = 2_000_000_000
"""Bytes that uploads leave on the disk: results and the databases need room too."""
_SINGLE_FILE = SUFFIXES - {".mrxs", ".vms", ".vmu", ".dcm"}  # the others are many files


_UNFINISHED = ".upload-"


def remove_unfinished(root: SlideRoot) -> None:
    """Removes what killed servers of this machine have left of uploads: hidden, and slides of patients."""
    if sys.platform == "win32":
        return  # signal 0 asks for nothing there
    for path in (root.folder / FOLDER).glob(f"{_UNFINISHED}*"):
        number = path.name.removeprefix(_UNFINISHED).partition("-")[0]
        if number.isdecimal() and int(number) != os.getpid():
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                with contextlib.suppress(OSError):
                    path.unlink()
            except OSError:
                continue  # somebody else's process


async def take_upload(request: Request, name: str, root: SlideRoot, settings: WebSettings) -> tuple[str, int]:
    """Writes the body to ROOT/uploads/<name>: (path below the root, bytes). Refusals are ApiError.

    It has a hidden name of its own until it is whole and opens; nothing that is there is replaced.
    """
    if not settings.uploads:
        raise ApiError(403, "uploads are off on this server.", "web.uploads = true turns them on.")
    if not is_plain_name(name) or Path(name).suffix.lower() not in _SINGLE_FILE:
        raise ApiError(415, f"expected a slide in one file ({' '.join(sorted(_SINGLE_FILE))}).")
    folder = make_folder(root.folder / FOLDER)
    if not folder.resolve().is_relative_to(root.folder):
        raise ApiError(403, "the folder for uploads leads outside the root.")
    target = folder / name
    if target.exists():
        raise ApiError(409, f"{name} is there already.")
    wanted = int(request.headers.get("content-length", "0"))
    if shutil.disk_usage(folder).free < wanted + _KEPT_FREE:
        raise ApiError(507, "the disk of this server is nearly full: the upload was not taken.")
    own = folder / f"{_UNFINISHED}{os.getpid()}-{secrets.token_hex(8)}{Path(name).suffix.lower()}"
    try:
        size = await _write(request, own, round(settings.upload_max_mb * 1e6))
        await run_in_threadpool(_check_opens, own)
        with output_errors(target):
            try:
                os.link(own, target)  # fails where another upload was faster; a rename would replace it
            except FileExistsError:
                raise ApiError(409, f"{name} is there already.") from None
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
    return f"{FOLDER}/{name}", size


async def _write(request: Request, path: Path, limit: int) -> int:
    size = 0
    with output_errors(path), path.open("xb") as stream:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise ApiError(413, f"expected at most {limit} bytes.")
            await run_in_threadpool(stream.write, chunk)
        stream.flush()
        os.fsync(stream.fileno())
    return size


def _check_opens(path: Path) -> None:
    several = ApiError(415, "expected a slide in one file. Received: one of several, or an index of others.")
    if is_index(path) or is_dicom(path):  # by content: OpenSlide does not ask for the suffix either
        raise several
    try:
        require_survivable(SlideRef(path))
        if is_many_files(path):
            raise several
        with open_slide(SlideRef(path)) as slide:
            slide.overview(max_px=64)
    except InputError:
        raise ApiError(422, "the file cannot be opened as a slide: damaged, cut off, or of another kind.") from None
    except VirtualStainError as error:
        raise ApiError(422, error.message) from None
