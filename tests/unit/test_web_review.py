"""The review API: queue, verdicts, corrections, other readers, what has changed, exchange."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.fixtures.review import PATIENT_ID, changed, tiny_review, write_labels
from tests.fixtures.web import client, review_of
from virtual_stain import web
from virtual_stain.labels.store import TileStore
from virtual_stain.records.schema import BY_KEY
from virtual_stain.review.settle import people_verdicts
from virtual_stain.review.store import ReviewStore
from virtual_stain.tables import BYTE_ORDER_MARK
from virtual_stain.web.review.command import exchange
from virtual_stain.web.review.folder import RecordFolder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_review(tmp_path_factory.mktemp("review"), pairs=2, tiles=10, tile_px=128)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / "records"))


@pytest.fixture
def page(folder: Path) -> TestClient:
    return client(review_of(folder))


def _queue(page: TestClient, **query: object) -> list[dict]:
    answer = page.get("/api/review/queue", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def _decide(page: TestClient, item: dict, verdict: str = "accept", who: str = "Dr. A", **more: object) -> dict:
    body = {k: item[k] for k in ("pair", "col", "row", "label_id")} | {"reviewer": who, "verdict": verdict, **more}
    answer = page.post("/api/review/decisions", json=body)
    return {"status": answer.status_code, **answer.json()}


def test_the_folder_and_its_queue(page: TestClient) -> None:
    about = page.get("/api/review").json()
    assert [(p["name"], p["marker"], p["tiles"], p["decided"], p["patient_id"]) for p in about["pairs"]] == [
        ("case-01", "Ki67", 10, 0, None),
        ("case-02", "Ki67", 10, 0, None),
    ]
    assert about["flags"] == ["few_cells"]
    items = _queue(page)
    assert len(items) == 20
    trained = [i["weight"] > 0 for i in items]
    assert trained == sorted(trained, reverse=True)  # what cannot train comes last
    doubts = [i["doubt"] for i in items if i["weight"] > 0]
    assert doubts == sorted(doubts, reverse=True)


def test_a_folder_of_an_earlier_version_opens(folder: Path) -> None:
    state = folder / "work" / "build.json"
    text = state.read_text()
    assert "min_tile_cells" in text
    state.write_text(text.replace("min_tile_cells", "min_tumour_cells"))
    assert client(review_of(folder)).get("/api/review").json()["min_tile_cells"] == 20


def test_patients_are_shown_only_where_that_is_configured(folder: Path) -> None:
    shown = client(review_of(folder, show_patient_ids=True)).get("/api/review").json()
    assert shown["pairs"][0]["patient_id"] == PATIENT_ID


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ({"pair": "case-02"}, lambda i: i["pair"] == "case-02"),
        ({"flag": "few_cells"}, lambda i: "few_cells" in i["flags"]),
        ({"without_flags": True}, lambda i: not i["flags"]),
        ({"ratio_min": 0.3, "ratio_max": 0.6}, lambda i: 0.3 <= i["ratio"] <= 0.6),
        ({"error_max_um": 8}, lambda i: i["error_median_um"] <= 8),
    ],
)
def test_filters_leave_what_passes(page: TestClient, query: dict, holds: object) -> None:
    everything, some = _queue(page, order="place"), _queue(page, order="place", **query)
    assert 0 < len(some) < len(everything)
    assert some == [i for i in everything if holds(i)]  # type: ignore[operator]


def test_a_tile_comes_with_its_pixels_and_cells(page: TestClient, folder: Path) -> None:
    item = _queue(page)[0]
    path = f"/api/review/tiles/{item['pair']}/{item['col']}/{item['row']}"
    tile = page.get(path).json()
    assert tile["name"].count("positive") == item["positive"]
    assert tile["name"].count("negative") == item["negative"]
    with TileStore(folder / "work" / item["pair"] / "tiles.h5") as store:
        stored = next(t for t in store.tiles() if (t.col, t.row) == (item["col"], item["row"]))
    for side, data in (("he", stored.he_jpeg), ("ihc", stored.ihc_jpeg)):
        picture = page.get(f"{path}/{side}.jpg", params={"label_id": item["label_id"]})
        assert (picture.content, picture.headers["content-type"]) == (data, "image/jpeg")
    assert page.get(f"{path}/he.jpg", params={"label_id": "0" * 32}).status_code == 409
    assert page.get("/api/review/tiles/case-01/77/0").status_code == 404
    assert page.get("/api/review/tiles/none/0/0").status_code == 404


def test_the_overview_shows_every_tile_at_its_place(page: TestClient, folder: Path) -> None:
    from virtual_stain.labels.jpeg import decode_jpeg

    frame = page.get("/api/review/pairs/case-01/overview").json()
    picture = decode_jpeg(page.get("/api/review/pairs/case-01/overview.jpg").content)
    assert picture.shape[:2] == (frame["height"], frame["width"])
    for item in _queue(page, pair="case-01"):
        x = (item["x_px0"] + item["width_px0"] / 2 - frame["x_px0"]) / frame["px0_per_px"]
        y = (item["y_px0"] + item["height_px0"] / 2 - frame["y_px0"]) / frame["px0_per_px"]
        assert picture[int(y) - 3 : int(y) + 3, int(x) - 3 : int(x) + 3].mean() < 235  # pink, not white
    assert len(list((folder / "work" / "case-01").glob("overview-*.jpg"))) == 1


def test_decisions_undo_and_what_others_see(page: TestClient) -> None:
    first, second = _queue(page)[:2]
    start = page.get("/api/review").json()["last_id"]
    answer = _decide(page, first)
    assert (answer["status"], answer["item"]["status"]) == (201, "accept")
    _decide(page, second, "reject", reason="fold")
    _decide(page, first, "reject", who="Dr. B", reason="pen")
    changes = page.get("/api/review/changes", params={"after": start}).json()
    assert {(i["col"], i["row"], i["status"]) for i in changes["items"]} == {
        (first["col"], first["row"], "disputed"),
        (second["col"], second["row"], "reject"),
    }
    assert len(_queue(page, status="open")) == 18
    undone = page.post("/api/review/undo", json={"reviewer": "Dr. A"}).json()
    assert (undone["undone"], undone["items"][0]["status"]) == (1, "open")
    undone = page.post("/api/review/undo", json={"reviewer": " Dr.  A"}).json()  # the same name
    assert undone["items"][0]["status"] == "reject"  # Dr. B's stands
    assert page.post("/api/review/undo", json={"reviewer": "Dr. A"}).json()["undone"] == 0


def test_what_cannot_be_a_decision_is_refused(page: TestClient) -> None:
    item = _queue(page)[0]
    assert _decide(page, item, "reject")["status"] == 422  # no reason
    assert _decide(page, item | {"label_id": "0" * 32})["status"] == 409
    assert _decide(page, item | {"col": 99})["status"] == 404
    assert _decide(page, item, who=" ")["status"] == 422
    assert _decide(page, item, who="a\u200bb")["status"] == 422  # a name that looks like another
    far = {"added": [[500, 1, "positive"]]}
    assert "inside the tile" in _decide(page, item, correction=far)["message"]
    assert _decide(page, item, "skip", correction={"removed": [0]})["status"] == 422
    assert _decide(page, item, correction={"removed": [10**6]})["status"] == 422
    assert page.get("/api/review").json()["last_id"] == 0


def test_corrected_cells_come_back_and_go_into_the_verdict(page: TestClient, folder: Path) -> None:
    item = _queue(page)[0]
    correction = {"changed": [[0, "ignored"]], "removed": [1], "added": [[3.5, 4.25, "positive"]]}
    assert _decide(page, item, correction=correction)["item"]["decisions"][0]["corrected"]
    path = f"/api/review/tiles/{item['pair']}/{item['col']}/{item['row']}"
    assert page.get(path).json()["corrections"] == [{"reviewer": "Dr. A", "correction": correction}]
    assert len(_queue(page, corrected=True)) == 1
    (verdict,) = people_verdicts(folder, None)
    assert verdict.correction is not None
    assert json.loads(verdict.correction.to_json()) == correction


def test_a_batch_accepts_what_was_shown_or_nothing(page: TestClient) -> None:
    rejected = _queue(page, pair="case-01", without_flags=True)[0]
    _decide(page, rejected, "reject", reason="fold")
    body = {"reviewer": "Dr. A", "filter": {"pair": "case-01", "without_flags": True}, "expected": 8}
    refused = page.post("/api/review/batch", json=body)
    assert refused.status_code == 409
    assert "Now there are 7" in refused.json()["message"]
    done = page.post("/api/review/batch", json=body | {"expected": 7}).json()
    assert done["accepted"] == 7
    assert len(_queue(page, status="accept")) == 7
    assert len(_queue(page, status="reject")) == 1
    assert page.post("/api/review/undo", json={"reviewer": "Dr. A"}).json()["undone"] == 7


def test_a_label_built_anew_makes_its_verdicts_stale(page: TestClient, folder: Path) -> None:
    item = _queue(page, pair="case-01", order="place")[0]
    _decide(page, item, "reject", reason="fold")
    with TileStore(folder / "work" / "case-01" / "tiles.h5") as store:
        labels = list(store.tiles())
    write_labels(folder, "case-01", [changed(labels[0]), *labels[1:]], key="0" * 64)
    fresh = _queue(page, pair="case-01", order="place")[0]
    assert (fresh["status"], fresh["decisions"], fresh["stale"][0]["verdict"]) == ("stale", [], "reject")
    assert [i["status"] for i in _queue(page, status="open") if i["pair"] == "case-01"].count("stale") == 1
    assert _decide(page, item)["status"] == 409
    assert _decide(page, fresh)["item"]["status"] == "accept"


def test_the_table_goes_out_and_comes_in_again(page: TestClient, folder: Path, tmp_path: Path) -> None:
    one, two, three = _queue(page)[:3]
    _decide(page, one, correction={"removed": [2]})
    _decide(page, two, "reject", reason='fold, "pen"')
    _decide(page, two, who="Dr. Ü")
    text = page.get("/api/review/export.csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["verdict"], r["reviewer"], r["stale"]) for r in rows] == [
        ("accept", "Dr. A", "0"),
        ("reject", "Dr. A", "0"),
        ("accept", "Dr. Ü", "0"),
    ]
    list(exchange(folder, export=tmp_path / "a.csv", take=None, reviewer=None, agreement=False, excel=True))
    assert (tmp_path / "a.csv").read_text("utf-8") == BYTE_ORDER_MARK + text
    again = page.post("/api/review/import", json={"format": "csv", "text": text}).json()
    assert again == {"imported": 0, "repeated": 3, "stale": 0}
    for path in folder.glob("review.sqlite*"):
        path.unlink()
    ReviewStore(folder / "review.sqlite")
    fresh = client(review_of(folder))
    more = text + f"{three['pair']},{three['col']},{three['row']},{'0' * 32},skip,Dr. A,,,,\n"
    taken = fresh.post("/api/review/import", json={"format": "csv", "text": more}).json()
    assert taken == {"imported": 4, "repeated": 0, "stale": 1}
    assert [i["status"] for i in _queue(fresh) if i["status"] != "open"] == ["accept", "disputed", "stale"]
    assert fresh.post("/api/review/import", json={"format": "csv", "text": "a,b\n1,2\n"}).status_code == 422


def test_readers_are_compared(page: TestClient) -> None:
    items = _queue(page, without_flags=True)[:4]
    for item in items:
        _decide(page, item, who="A")
    gone = {"removed": [0]}
    _decide(page, items[0], who="B", correction=gone)
    _decide(page, items[1], "reject", who="B", reason="x")
    (found,) = page.get("/api/review/agreement").json()["readers"]
    assert (found["n_shared"], found["n_equal"], found["n_ratios"], found["kappa"]) == (2, 1, 1, 0.0)
    assert found["mean_difference"] is not None


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    from virtual_stain.errors import InputError

    with pytest.raises(InputError, match="expected a folder of records"):
        review_of(tmp_path)


def test_qupath_gets_the_tiles_in_its_frame_and_gives_corrections_back(page: TestClient, folder: Path) -> None:
    item = _queue(page, pair="case-01", without_flags=True)[0]
    _decide(page, item)
    value = page.get("/api/review/pairs/case-01/export.geojson").json()
    name = f"case-01 {item['col']},{item['row']}"
    tile, cells = [
        [f for f in value["features"] if f["properties"]["name"] == wanted] for wanted in (name, f"{name} cells")
    ]
    assert tile[0]["geometry"]["coordinates"][0][0] == [item["x_px0"] - 40, item["y_px0"] - 20]
    cells[0]["geometry"]["coordinates"].pop()  # a positive cell is deleted in QuPath
    body = {"format": "geojson", "text": json.dumps(value), "reviewer": "Dr. Q"}
    assert page.post("/api/review/import", json=body).json() == {"imported": 1, "repeated": 0, "stale": 0}
    verdicts = [d.verdict for d in ReviewStore(folder / "review.sqlite").decisions()]
    assert (verdicts[1].reviewer, len(verdicts[1].correction.removed)) == ("Dr. Q", 1)
    assert page.post("/api/review/import", json=body | {"reviewer": None}).status_code == 422
    (folder / "work" / "case-01" / "tissue.h5").unlink()
    lost = page.get("/api/review/pairs/case-01/export.geojson")
    assert (lost.status_code, "tissue map is missing" in lost.json()["message"]) == (409, True)


def test_tiles_of_another_version_are_told_and_not_called_a_bug(folder: Path) -> None:
    import h5py

    from virtual_stain.errors import InputError

    with h5py.File(folder / "work" / "case-02" / "tiles.h5", "r+") as file:
        del file["columns/weight"]
    with pytest.raises(InputError, match="built by another version"):
        RecordFolder(folder).pairs()


def test_a_plain_accept_after_anothers_correction_is_a_dispute_and_not_the_last_word(
    page: TestClient, folder: Path
) -> None:
    item = _queue(page)[0]
    _decide(page, item, who="A", correction={"removed": [0]})
    assert _decide(page, item, who="B")["item"]["status"] == "disputed"
    (verdict,) = people_verdicts(folder, None)
    assert (verdict.decision.value, verdict.correction) == ("skip", None)
    assert _decide(page, item, who="B", correction={"removed": [0]})["item"]["status"] == "accept"
    (verdict,) = people_verdicts(folder, None)
    assert len(verdict.correction.removed) == 1


def test_a_batch_leaves_out_what_somebody_once_rejected(page: TestClient, folder: Path) -> None:
    item = _queue(page, pair="case-01", order="place")[0]
    _decide(page, item, "reject", reason="fold")
    with TileStore(folder / "work" / "case-01" / "tiles.h5") as store:
        labels = list(store.tiles())
    write_labels(folder, "case-01", [changed(labels[0]), *labels[1:]], key="0" * 64)
    body = {"reviewer": "B", "filter": {"pair": "case-01"}}
    assert page.post("/api/review/batch", json=body | {"expected": 10}).status_code == 409
    assert page.post("/api/review/batch", json=body | {"expected": 9}).json()["accepted"] == 9
    assert _queue(page, pair="case-01", order="place")[0]["status"] == "stale"


def test_no_answer_names_the_folder_it_comes_from(page: TestClient, folder: Path) -> None:
    (folder / "work" / "case-01" / "tissue.h5").unlink()
    lost = page.get("/api/review/pairs/case-01/export.geojson").json()
    assert str(folder.parent) not in lost["message"]
    assert "work/case-01" in lost["message"]


def test_a_table_for_spreadsheets_holds_no_formula_and_reads_back(page: TestClient) -> None:
    one, two = _queue(page)[:2]
    _decide(page, one, "reject", reason='=HYPERLINK("x")')
    _decide(page, two, "reject", who="@SUM(A1)", reason="-1'")
    text = page.get("/api/review/export.csv").text
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@"))]
    assert page.post("/api/review/import", json={"format": "csv", "text": text}).json()["repeated"] == 2


def test_a_flag_of_a_tile_stood_on_the_page_as_its_code() -> None:
    page = (Path(web.__file__).parent / "static" / "review.js").read_text()
    words = dict(re.findall(r'(\w+): "([^"]+)"', page.partition("const FLAGS = {")[2].partition("};")[0]))
    assert set(words) >= set(BY_KEY["tile/flags"].meaning.split(", "))
    assert all("_" not in text for text in words.values())
