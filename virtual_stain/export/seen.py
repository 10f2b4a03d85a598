"""Whether a model has been trained on a slide: keyed hashes, so that the bundle gives no slide away."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from virtual_stain.export.card import ModelCard
from virtual_stain.patients import ENVIRONMENT_NAME, PatientKey, default_key_path, load_patient_key


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


def seen_in_training(card: ModelCard, content_sha256: str, key: PatientKey | None) -> bool | None:
    """Whether the slide is one of the training slides; None: cannot be known here (no list, or not the key)."""
    if not card.training_slides or key is None or key.fingerprint != card.patient_key_fingerprint:
        return None
    return key.content_id(content_sha256) in card.training_slides
