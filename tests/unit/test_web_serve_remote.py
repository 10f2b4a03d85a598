"""`vstain serve` in front of a model server: the page's jobs are read through TF Serving's protocol."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from fastapi.testclient import TestClient

from tests.fixtures.serving import Loopback
from tests.fixtures.web import client, serve_config
from virtual_stain.web.guard import Access
from virtual_stain.web.serve.app import serve_app
from virtual_stain.web.serve.command import open_office
from virtual_stain.web.serve.model_process import write_settings
from virtual_stain.web.serve.supervisor import Supervisor


def _done(page: TestClient, number: int, seconds: float = 120) -> dict:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = dict(page.get(f"/api/jobs/{number}").json())
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)


def test_a_job_is_read_by_a_model_server_as_by_the_bundle(tmp_path: Path) -> None:
    base = serve_config(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with Loopback(tmp_path / "model", "tiny") as server:
        models = (*base.web.models, f"grpc={server.grpc_address}", f"rest={server.rest_address}")
        config = dataclasses.replace(base, web=dataclasses.replace(base.web, models=models))
        office = open_office(out, config)
        write_settings(out, config, office.root.folder, office.models.places, 1)
        with client(serve_app(office, Access("127.0.0.1"), Supervisor(out))) as page:
            columns = {}
            for model in ("tiny", "grpc", "rest"):
                body = {"slides": ["one.tiff"], "model": model}
                number = page.post("/api/jobs", json=body).json()["jobs"][0]["id"]
                job = _done(page, number)
                assert job["state"] == "done", job
                columns[model] = page.get(f"/api/jobs/{number}/result").json()["tiles"]["columns"]["ki67"]
            assert len(columns["tiny"]) >= 4
            for model in ("grpc", "rest"):
                assert max(abs(a - b) for a, b in zip(columns["tiny"], columns[model], strict=True)) <= 1e-4
        assert {signature for signature, _, _ in server.requests} >= {"describe"}
        assert len(server.requests) > 2
