"""Who is let in, what is refused, and what every answer carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.fixtures.review import tiny_review
from tests.fixtures.web import BASE, TOKEN, client, review_of
from virtual_stain.config import WebSettings
from virtual_stain.errors import ConfigError
from virtual_stain.web.guard import Access
from virtual_stain.web.server import access_of, listen, url_of

UNDO = "/api/review/undo"
BODY = {"reviewer": "A"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_review(tmp_path_factory.mktemp("guard"), pairs=1, tiles=2, tile_px=64)


@pytest.fixture
def page(folder: Path) -> TestClient:
    return client(review_of(folder))


@pytest.fixture
def locked(folder: Path) -> TestClient:
    return client(review_of(folder, token=TOKEN))


def test_every_answer_carries_the_headers(page: TestClient) -> None:
    for path in ("/", "/api/review", "/static/style.css", "/nothing", "/healthz"):
        headers = page.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


def test_pages_hold_no_script_or_style_of_their_own_and_nothing_from_outside() -> None:
    web = Path(__file__).parents[2] / "virtual_stain" / "web"
    for path in [*web.glob("templates/*.html"), *web.glob("static/*")]:
        text = path.read_text()
        outside = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http://" not in outside, path
        assert "https://" not in outside, path
        if path.suffix == ".html":
            assert "style=" not in text
            assert " on" + "click=" not in text
            assert text.count("<script") == text.count('<script type="module" src="static/')


STRANGERS = ["evil.example", "evil.example:8899", "127.0.0.1.evil.example", "", "[::1", "10.0.0.5"]


@pytest.mark.parametrize("host", STRANGERS)
def test_another_name_for_this_machine_is_refused(page: TestClient, host: str) -> None:
    """DNS rebinding: a page of another site points its own name at 127.0.0.1."""
    assert page.get("/api/review", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_loopback_names_are_served(page: TestClient, host: str) -> None:
    assert page.get("/api/review", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": BASE, "sec-fetch-site": "same-origin"}, 200),
        ({}, 200),
    ],
)
def test_nothing_is_changed_for_another_sites_page(page: TestClient, headers: dict, status: int) -> None:
    assert page.post(UNDO, json=BODY, headers=headers).status_code == status


def test_a_body_has_a_size_and_a_limit(page: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    assert page.post(UNDO, content=b"x" * 2_000_001, headers=json_type).status_code == 413
    assert page.post(UNDO, content=iter([b"{}"]), headers=json_type).status_code == 411


def test_without_the_token_nothing_is_told(locked: TestClient) -> None:
    for path in ("/api/review", "/api/openapi.json", "/metrics", "/api/review/export.csv"):
        answer = locked.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.get("/api/review", headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert locked.get("/api/review", headers={"cookie": "vstain_session=x"}).status_code == 401
    assert locked.post(UNDO, json=BODY).status_code == 401
    assert locked.get("/healthz").status_code == 200
    assert locked.get("/readyz").json() == {"status": "ready"}
    shown = locked.get("/", headers={"accept": "text/html"}, follow_redirects=False)
    assert (shown.status_code, shown.headers["location"]) == (303, "./login")


def test_the_token_opens_as_header_and_through_the_login_page(locked: TestClient) -> None:
    assert locked.get("/api/review", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert locked.post("/login", content="token=wrong", headers=form).status_code == 403
    done = locked.post("/login", data={"token": TOKEN}, follow_redirects=False)
    assert done.status_code == 303
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert locked.get("/api/review").status_code == 200  # the client keeps the cookie
    assert locked.post("/login", data={"token": TOKEN}, headers={"origin": "http://evil.example"}).status_code == 403


def test_anything_but_loopback_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VSTAIN_WEB_TOKEN", raising=False)
    for host in ("0.0.0.0", "192.168.1.5", "::", "pathology.example"):
        with pytest.raises(ConfigError, match="expected a token"):
            access_of(WebSettings(host=host))
    monkeypatch.setenv("VSTAIN_WEB_TOKEN", "short")
    with pytest.raises(ConfigError, match="at least 16"):
        access_of(WebSettings())
    monkeypatch.setenv("VSTAIN_WEB_TOKEN", TOKEN)
    access = access_of(WebSettings(host="0.0.0.0", allowed_hosts=("pathology.example",)))
    assert access.knows_host("pathology.example:8899")
    assert not access.knows_host("evil.example")
    assert Access("0.0.0.0", token=TOKEN).knows_host("10.1.2.3:8899")


def test_a_port_in_use_is_told() -> None:
    with listen(WebSettings(port=0)) as sock:
        port = int(url_of(sock).rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match="cannot be listened on"):
            listen(WebSettings(port=port))


def test_metrics_count_routes_and_never_hold_a_name(page: TestClient) -> None:
    page.get("/api/review/tiles/Mustermann/0/0")
    text = page.get("/metrics").text
    assert 'route="/api/review/tiles/{pair}/{col}/{row}",status="404"' in text
    assert "vstain_review_last_id" in text
    assert "Mustermann" not in text


def test_an_unknown_path_is_a_problem_too(page: TestClient) -> None:
    answer = page.get("/nothing/here")
    assert (answer.status_code, set(answer.json())) == (404, {"message", "hint"})
    assert page.get("/static/../app.py").status_code == 404
    assert page.get("/static/%2e%2e/app.py").status_code == 404
