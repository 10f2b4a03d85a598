"""How a batch ends: which error tells best what happened, and reasons that may stand in a file that travels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from virtual_stain.errors import BatchError, ReviewPendingError, VirtualStainError
from virtual_stain.pairs import StainPair

_LISTED = 20


def public_reason(text: str, pair: StainPair, out: Path) -> str:
    """The reason without paths and names of files: folders and files are often named after patients."""
    files = [(pair.he.path, "H&E slide"), (pair.ihc.path, "IHC slide")]
    files += [(p, name) for p, name in ((pair.he_roi, "H&E region"), (pair.ihc_roi, "IHC region")) if p is not None]
    shown = {str(out): "DIR"} if out.name else {}  # not of "." or "/"
    shown |= {str(out.absolute()): "DIR"} | {str(path.absolute()): name for path, name in files}  # of a cluster
    shown |= {str(path): name for path, name in files}
    for path, name in files:
        for word in (path.name, path.stem, path.name.split(".")[0]):
            if word:
                shown.setdefault(word, name)
    # In one pass, longest first: what stands in for a name is not masked again.
    pattern = "|".join(_masked(key) for key in sorted(shown, key=len, reverse=True))
    return re.sub(pattern, lambda found: shown[found.group()], text)


def _masked(key: str) -> str:
    """A path wherever it stands; a bare name as a whole word only ("he" is in "the")."""
    escaped = re.escape(key)
    return escaped if Path(key).name != key else rf"(?<![^\W_]){escaped}(?![^\W_])"


def error_of(
    failed: Mapping[str, VirtualStainError], pending: Sequence[str], n_pairs: int, out: Path, template: Path
) -> VirtualStainError | None:
    """The error that a run ends with, None when all is well.

    A pending review comes first: it is what the user has to do next; failures are listed with it.
    """
    failures = [f"{pair}: {error.message}" for pair, error in failed.items()]
    if pending:
        also = f"\nAlso left out:\n{_list(failures)}" if failures else ""
        return ReviewPendingError(
            f"{len(pending)} of {n_pairs} pairs have tiles that nobody has reviewed:\n{_list(pending)}{also}",
            hint=f"Review them in the browser: vstain review {out}, then run the same command again. Or fill in "
            f"verdict (accept, reject or skip) and reviewer in {template} and add --verdicts {template}. "
            "--accept-unreviewed does without a person, where the registration was accepted, "
            "and is recorded in the manifest.",
        )
    if not failed:
        return None
    errors = list(failed.values())
    if len(failed) < n_pairs:
        return BatchError(
            f"{len(failed)} of {n_pairs} pairs failed; the records of the others are in {out}:\n{_list(failures)}",
            hint=next((e.hint for e in errors if e.hint), None),
        )
    if len(errors) == 1:
        return errors[0]
    return type(errors[0])(f"all {n_pairs} pairs failed:\n{_list(failures)}", errors[0].hint)


def stopped_error(failed: Mapping[str, VirtualStainError], n_pairs: int, out: Path) -> VirtualStainError:
    """The error of a run that --fail-fast has ended at the first failure."""
    if len(failed) == n_pairs == 1:
        return next(iter(failed.values()))
    lines = _list([f"{pair}: {error.message}" for pair, error in failed.items()])
    return BatchError(
        f"{len(failed)} of {n_pairs} pairs failed, and --fail-fast stopped the run; the records in {out} are as they "
        f"were:\n{lines}",
        hint="The same command goes on from there.",
    )


def _list(lines: Sequence[str]) -> str:
    shown = [f"  - {line}" for line in lines[:_LISTED]]
    if len(lines) > _LISTED:
        shown.append(f"  … and {len(lines) - _LISTED} more: see run.json")
    return "\n".join(shown)
