"""What `vstain serve` does."""

from __future__ import annotations

import dataclasses
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.errors import ConfigError
from virtual_stain.files import folder_lock
from virtual_stain.web.serve.api import Office
from virtual_stain.web.serve.app import serve_app
from virtual_stain.web.serve.jobs import JobStore
from virtual_stain.web.serve.model_process import write_settings
from virtual_stain.web.serve.registry import Models
from virtual_stain.web.serve.results import Results
from virtual_stain.web.serve.root import SlideRoot
from virtual_stain.web.serve.supervisor import Supervisor
from virtual_stain.web.serve.upload import remove_unfinished
from virtual_stain.web.server import access_of, listen, run, url_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line says; None and () leave it to [web] of the configuration."""

    out: Path
    root: Path | None = None
    models: Sequence[str] = ()
    port: int | None = None
    root_path: str | None = None
    jobs: int = 1
    """Threads that read tiles in the model process."""
    browser: bool = True


def open_office(out: Path, config: Config) -> Office:
    """Raises ConfigError, OutputError, InputError."""
    settings = config.web
    if not settings.root:
        raise ConfigError("web.root: expected a folder of slides.", hint="vstain serve --root SLIDES --model MODEL")
    root, models = SlideRoot(Path(settings.root)), Models.of(settings.models)
    return Office(root, models, JobStore(out), Results(out, root), settings)


def run_server(config: Config, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serves until Ctrl-C. Raises ConfigError, OutputError (another server works in `out`) before."""
    changes: dict[str, Any] = {
        "root": None if options.root is None else str(options.root),
        "models": tuple(options.models) or None,
        "port": options.port,
        "root_path": options.root_path,
    }
    try:
        web = dataclasses.replace(config.web, **{k: v for k, v in changes.items() if v is not None})
    except ValueError as error:
        raise ConfigError(f"web.{error}") from None
    config = dataclasses.replace(config, web=web)
    access = access_of(web)
    out = options.out
    with folder_lock(out):
        office = open_office(out, config)
        office.models.require()
        office.jobs.put_all_back()
        remove_unfinished(office.root)
        sock = listen(web)
        write_settings(out, config, office.root.folder, office.models.places, options.jobs)
        say(f"Score slides of {office.root.folder} at {url_of(sock)} (Ctrl-C ends it; jobs are kept in {out})")
        if options.browser:
            webbrowser.open(url_of(sock))
        run(serve_app(office, access, Supervisor(out)), sock, web.root_path)
