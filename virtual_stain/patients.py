"""Patients as keyed hashes: a name never leaves the table it was read from.

id = HMAC-SHA256(key, normalised name). The key is a file of the user: `VSTAIN_PATIENT_KEY` names it, else it is
created once in the user's data folder, readable by the user alone. Its fingerprint, not the key, stands in manifests
and bundles.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.errors import ConfigError, InputError, OutputError
from virtual_stain.files import output_errors

ENVIRONMENT_NAME = "VSTAIN_PATIENT_KEY"
_MIN_KEY_BYTES = 16
_NUMBER = re.compile(r"\+?0*(\d+)(?:[.,]0+)?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+|\d{1,3}(?:\.\d{3}){2,}")
_MARKED_AS_TEXT = re.compile(r"'(.+)|=\"(.*)\"")
_ERROR = re.compile(r"#(?:n/a|nv|name\?|ref!|value!|wert!|div/0!|num!|zahl!|null!|bezug!|#+)")
_ROUNDED = re.compile(r"[1-9]\d{14}0+")  # spreadsheets keep 15 digits
_SHORTENED = re.compile(r"\d([.,]\d+)?e\+?\d+")
_MONTH = r"(?:jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zäéû]{0,6}\.?"
_MADE_A_DATE = re.compile(
    r"\d{1,2}:\d\d(?::\d\d)?|"
    rf"\d{{1,2}}[-. ]+{_MONTH}(?:[-. ]*\d{{2,4}})?|{_MONTH}[-. ]\d{{2,4}}|"
    r"(?:19|20)\d\d-\d\d-\d\d(?: 00:00:00)?|\d{1,2}([./])\d{1,2}\1(?:19|20)\d\d"
)
_log = logging.getLogger("vstain.patients")


@dataclass(frozen=True, slots=True)
class PatientKey:
    """The secret of one user or lab; never printed."""

    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell two keys apart and do not give the key away."""
        return self._hmac(b"vstain patient key fingerprint")[:16]

    def patient_id(self, name: str) -> str:
        """64 hex digits; equal for spellings that differ in case, spaces or Unicode form only.

        Two patients taken for one cost a little data; one taken for two would leak across a split.
        """
        return self._hmac(b"patient:" + normalised(name).encode("utf-8"))

    def content_id(self, content_sha256: str) -> str:
        """64 hex digits: a keyed hash of a slide's content hash, to recognise the slide with the key only."""
        return self._hmac(b"slide:" + content_sha256.encode("ascii"))

    def _hmac(self, message: bytes) -> str:
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()


def normalised(name: str) -> str:
    """Unicode NFKC, case-folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def damaged_by_spreadsheet(patients: Iterable[tuple[str, int]]) -> list[str]:
    """Sentences about names, given as (name, line), that a spreadsheet can have changed.

    Numbers that differ in leading zeros, in ".0", in thousands' marks or in a mark for text alone; long numbers that
    were shortened or rounded; names made a date, a time or an error. Each
    would be one patient under two names, or two under one. Lines are named, never patients.
    """
    problems: list[str] = []
    written: dict[str, tuple[str, int]] = {}
    for name, line in patients:
        plain = normalised(name)
        if _SHORTENED.fullmatch(plain):
            problems.append(
                f"line {line}: patient: a number that a spreadsheet has shortened (1.23E+11): write it in full"
            )
        if _MADE_A_DATE.fullmatch(plain):
            problems.append(
                f"line {line}: patient: a date or time, which a spreadsheet makes of 1-2: write the name as it is, "
                "in a column of text"
            )
        if _ERROR.fullmatch(plain):
            problems.append(
                f"line {line}: patient: an error value of a spreadsheet (it begins with #): write the name as it is"
            )
        if _ROUNDED.fullmatch(plain):
            problems.append(
                f"line {line}: patient: a number of more than 15 digits that ends in zeros: a spreadsheet keeps 15. "
                "Write it with a letter in front"
            )
        marked = _MARKED_AS_TEXT.fullmatch(plain)
        bare = plain if marked is None else (marked[1] or marked[2] or "").strip()
        if _THOUSANDS.fullmatch(bare):
            bare = bare.replace(",", "").replace(".", "")
        number = _NUMBER.fullmatch(bare)
        if number:
            first, at = written.setdefault(number[1], (plain, line))
            if first != plain:
                problems.append(
                    f"line {line}: patient: the same number as in line {at}, but for zeros, decimals or marks, "
                    "which spreadsheets drop and add: write both alike, or a letter in front if they are two patients"
                )
    return problems


def default_key_path(environment: Mapping[str, str] | None = None) -> Path:
    """`patient.key` in the user's data folder (`XDG_DATA_HOME`, else ~/.local/share)."""
    env = os.environ if environment is None else environment
    base = env.get("XDG_DATA_HOME") or ""
    if not Path(base).is_absolute():
        base = str(Path(env.get("HOME") or Path.home()) / ".local" / "share")
    return Path(base) / "virtual_stain" / "patient.key"


def load_patient_key(environment: Mapping[str, str] | None = None) -> PatientKey:
    """The key that `VSTAIN_PATIENT_KEY` names, else the user's own, which is created the first time.

    Raises InputError when the file is missing, unreadable or too short, ConfigError for an empty variable,
    OutputError when the user's own cannot be created.
    """
    env = os.environ if environment is None else environment
    named = env.get(ENVIRONMENT_NAME)
    if named is None:
        path = default_key_path(env)
        if not path.exists():
            try:
                _create(path)
            except OutputError as error:
                raise InputError(
                    f"{path.parent}: the patient key cannot be made there: {error.message}",
                    hint=f"{ENVIRONMENT_NAME} names a key file elsewhere; make one with: "
                    f"(umask 077; openssl rand -hex 32 > FILE). Keep it: patients are recognised by it.",
                ) from error
        return _read(path)
    if not named.strip():
        raise ConfigError(f"{ENVIRONMENT_NAME}: expected the path of a key file. Received an empty value.")
    return _read(Path(named))


def existing_key(environment: Mapping[str, str] | None = None) -> PatientKey | None:
    """The user's patient key if there is one; a scorer never creates it, for a new key would recognise nothing.

    Raises InputError or ConfigError when `VSTAIN_PATIENT_KEY` is set and unusable.
    """
    env = os.environ if environment is None else environment
    if env.get(ENVIRONMENT_NAME) is None and not default_key_path(env).exists():
        return None
    return load_patient_key(env)


def keyed_slides(content_sha256: Iterable[str], fingerprint: str, key: PatientKey | None) -> tuple[str, ...]:
    """Keyed hashes of the slides' content, sorted; empty (unknown) without the key that the records were built with."""
    if key is None or key.fingerprint != fingerprint:
        return ()
    return tuple(sorted({key.content_id(digest) for digest in content_sha256}))


def _read(path: Path) -> PatientKey:
    try:
        data = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(
            f"{path}: the patient key cannot be read: {error.strerror}.",
            hint=f"{ENVIRONMENT_NAME} names an existing file; make one with: "
            f"(umask 077; openssl rand -hex 32 > {path})",
        ) from None
    if len(data) < _MIN_KEY_BYTES:
        raise InputError(
            f"{path}: expected a patient key of at least {_MIN_KEY_BYTES} bytes. Received: {len(data)} bytes.",
            hint=f"Make one with: (umask 077; openssl rand -hex 32 > {path})",
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("%s: the patient key can be read by other users; chmod 600 mends that.", path)
    return PatientKey(data)


def _create(path: Path) -> None:
    """Creates the key whole or not at all; of two processes at once, one wins and both read the same file."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_hex(32).encode("ascii") + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            # link refuses where a file exists, so the first key stands for good; rename would replace it
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
