"""`--scheduler slurm:partition=…,cores=…`: workers that Slurm starts for one run, and that end with it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from virtual_stain.errors import ConfigError
from virtual_stain.installation import install_command

_PREFIX = "slurm:"
_EXAMPLE = "slurm:partition=cpu,cores=16,memory=64GB,jobs=4,walltime=04:00:00"
_NUMBERS = ("cores", "jobs", "gpus")
_TEXTS = ("partition", "memory", "walltime", "account", "interface", "directory")
_MEMORY_PER_CORE_GB = 4


def is_slurm(scheduler: str) -> bool:
    """Whether `--scheduler` names Slurm and no address."""
    return scheduler.startswith(_PREFIX)


def slurm_arguments(scheduler: str) -> tuple[dict[str, Any], int]:
    """(arguments of dask_jobqueue.SLURMCluster, number of jobs). Raises ConfigError.

    One process a core with one thread: a worker that dies takes one slide with it.

    >>> arguments, jobs = slurm_arguments("slurm:partition=cpu,cores=8,jobs=2")
    >>> arguments["queue"], arguments["processes"], arguments["memory"], jobs
    ('cpu', 8, '32GB', 2)
    """
    values: dict[str, str] = {}
    for part in scheduler.removeprefix(_PREFIX).split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not value or name not in _NUMBERS + _TEXTS or name in values:
            raise _refused(scheduler, f"{part!r}")
        values[name] = value
    for name in _NUMBERS:
        if name in values and not (values[name].isdecimal() and int(values[name]) > 0):
            raise _refused(scheduler, f"{name}={values[name]}")
    if not {"partition", "cores"} <= set(values):
        raise _refused(scheduler, "no partition, or no cores")
    cores, gpus = int(values["cores"]), int(values.get("gpus", "0"))
    processes = gpus or cores  # a process a GPU: two models on one take each other's memory
    arguments: dict[str, Any] = {
        "queue": values["partition"],
        "cores": processes,
        "processes": processes,
        "job_cpu": cores,
        "memory": values.get("memory", f"{_MEMORY_PER_CORE_GB * cores}GB"),
    }
    for name, theirs in (
        ("walltime", "walltime"),
        ("account", "account"),
        ("interface", "interface"),
        ("directory", "local_directory"),
    ):
        if name in values:
            arguments[theirs] = values[name]
    if gpus:
        arguments["job_extra_directives"] = [f"--gres=gpu:{gpus}"]
        arguments["worker_extra_args"] = ["--resources", "GPU=1"]
    return arguments, int(values.get("jobs", "1"))


def slurm_processes(scheduler: str) -> int:
    """How many processes will have come when all jobs run; 0 for an address."""
    if not is_slurm(scheduler):
        return 0
    arguments, jobs = slurm_arguments(scheduler)
    return jobs * int(arguments["processes"])


def _refused(scheduler: str, what: str) -> ConfigError:
    return ConfigError(
        f"--scheduler {scheduler}: expected partition and cores, and of {', '.join(_TEXTS + _NUMBERS)} what the site "
        f"needs. Received: {what}",
        hint=f"--scheduler {_EXAMPLE}",
    )


@contextlib.contextmanager
def open_slurm(scheduler: str) -> Iterator[str]:
    """The address of a scheduler in this process, whose workers are Slurm jobs; they are cancelled at the end."""
    arguments, jobs = slurm_arguments(scheduler)
    try:
        module = importlib.import_module("dask_jobqueue")
    except ImportError:
        raise ConfigError(
            "--scheduler slurm:… needs dask-jobqueue, which is not installed.", hint=install_command("cluster")
        ) from None
    with module.SLURMCluster(**arguments) as cluster:
        cluster.scale(jobs=jobs)
        yield cluster.scheduler_address
