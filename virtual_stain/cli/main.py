"""`vstain`: finds a command's module only when it is called, and turns errors into sentences and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click

from virtual_stain.cli.terminal import prepare_terminal
from virtual_stain.errors import VirtualStainError
from virtual_stain.version import __version__

# verb → (module, one line of help); the modules are light, heavy imports stand in the commands' bodies
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("doctor", "What is installed, what loads, what is missing and how to mend it."),
    "info": ("info", "Format, size, levels, pixel size and tissue of slides."),
    "register": ("register", "Register H&E/IHC pairs, one or a whole table."),
    "warp": ("warp", "Map points or annotations from H&E to IHC or back."),
    "count": ("count", "Count positive and negative tumour cells on an IHC slide."),
    "build-records": ("build_records", "From slide pairs to reviewed TFRecords."),
    "review": ("review", "Review labels in the browser."),
    "records": ("records", "Show or verify a folder of records."),
    "configs": ("configs", "List and write the configurations that come with the program."),
    "fit": ("fit", "Train a model on a folder of records."),
    "evaluate": ("evaluate", "Evaluate a run on patients it has never seen."),
    "export": ("export", "Export a run as a SavedModel bundle."),
    "serving": ("serving", "Check a running model server."),
    "models": ("models", "Verify, sign and register model bundles."),
    "score": ("score", "Score H&E slides with a model."),
    "panel": ("panel", "Join several markers into one page with published rule sets."),
    "dicom": ("dicom", "A report of a DICOM slide as DICOM structured report and segmentation."),
    "serve": ("serve", "Score slides in the browser."),
    "phantom": ("phantom", "Make synthetic slide pairs with complete truth."),
    "demo": ("demo", "All of it on phantoms, compared with the truth."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"virtual_stain.cli.{COMMANDS[name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # from the table, so that top-level --help imports no command at all
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vstain")
def main() -> None:
    """Predicts Ki67, ER, PR, HER2 or PD-L1 from an H&E whole-slide image. Research use only.

    \b
    vstain demo --out demo-out      the whole way on synthetic slides
    vstain doctor                   is everything installed?
    """


def run(arguments: list[str] | None = None) -> None:
    """Entry point: ends with one of the exit codes of docs/architecture.md."""
    # numpy's linear algebra is tiny here (3 × 3 matrices, colours), and OpenBLAS' threads spin for milliseconds after
    # every call of it: reading a window took twice its processor time, at the cost of whoever works beside it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    prepare_terminal()
    code = _run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    if "tensorflow_io" in sys.modules:
        # after any s3:// access the interpreter aborts while it shuts down; the work is done and the code must stand
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    try:
        result = main.main(args=arguments, prog_name="vstain", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except VirtualStainError as error:
        click.echo(f"vstain: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("vstain: interrupted; finished work is kept, the same command goes on from there.", err=True)
        return 130
    except BrokenPipeError:
        # `vstain … | head`: not our failure; keep Python from complaining again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        click.echo("vstain: out of memory. Fewer --jobs or a smaller batch_size need less.", err=True)
        return 1
    except Exception as error:
        from virtual_stain.files import full_disk
        from virtual_stain.installation import what_is_missing

        missing = what_is_missing(error)
        if missing is not None:
            click.echo(f"vstain: {missing}", err=True)
            return 2
        full = full_disk(error)
        if full is not None:
            click.echo(f"vstain: {full}", err=True)
            return full.exit_code
        traceback.print_exc()
        click.echo("vstain: this is a bug; please report the lines above.", err=True)
        return 1
