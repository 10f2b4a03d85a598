"""The API against its own description: no 5xx, no answer that the description does not allow, valid and invalid input.

`VSTAIN_API_EXAMPLES=1000` runs as many for each route and kind of input.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fixtures.review import tiny_review
from tests.fixtures.web import BASE, client, review_of, serve_of

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=int(os.environ.get("VSTAIN_API_EXAMPLES", "12")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return review_of(tiny_review(tmp_path_factory.mktemp("api"), pairs=1, tiles=3, tile_px=64))


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return serve_of(Path(tmp_path_factory.mktemp("api")), uploads=True, upload_max_mb=1)


def _mean(case: schemathesis.Case, there: Mapping[str, object]) -> None:
    """Names things that exist, wherever the case names any: made-up names alone would only ever meet a 404."""
    for part in (case.path_parameters, case.body):
        if isinstance(part, dict):
            part.update({name: value for name, value in there.items() if name in part})


def _try_everything(app: FastAPI, mode: GenerationMode) -> int:
    """The number of requests that were sent and whose answers kept to the description."""
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"host": "127.0.0.1"})
    page = client(app)
    if "/api/jobs" in schema.raw_schema["paths"]:
        there = {"slides": ["one.tiff"], "model": "tiny", "number": 1}
        page.post("/api/jobs", json={k: there[k] for k in ("slides", "model")})
    else:
        item = page.get("/api/review/queue").json()["items"][0]
        there = {name: item[name] for name in ("pair", "col", "row", "label_id")}
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
            continue  # there is nothing that could be wrong about it

        @given(case=operation.as_strategy(generation_mode=mode), meant=st.booleans())
        @SETTINGS
        def check(case: schemathesis.Case, meant: bool) -> None:
            nonlocal sent
            sent += 1
            if meant:
                _mean(case, there)
            case.call_and_validate(base_url=BASE, checks=CHECKS)

        check()
    return sent


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_the_review_api_keeps_to_its_description(review: FastAPI, mode: GenerationMode) -> None:
    assert _try_everything(review, mode) >= 100


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_the_scoring_api_keeps_to_its_description(serve: FastAPI, mode: GenerationMode) -> None:
    assert _try_everything(serve, mode) >= 100
