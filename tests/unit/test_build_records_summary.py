from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tests.fixtures.registration import plain_registration, toy_transform
from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.labels.store import TileTable
from virtual_stain.records.manifest import (
    ExcludedEntry,
    Manifest,
    PairEntry,
    RegistrationEntry,
    ShardEntry,
    TilingEntry,
)
from virtual_stain.records.schema import BY_KEY
from virtual_stain.registration.store import JSON_NAME, write_registration
from virtual_stain.workflows.summary import _FLAG_WORDS, Used, write_summary


def _table() -> TileTable:
    columns = {
        "weight": np.array([1.0, 0.0, 1.0, 1.0]),
        "positive": np.array([30, 1, 10, 50]),
        "negative": np.array([70, 3, 90, 50]),
        "tissue_fraction": np.array([1.0, 1.0, 0.5, 1.0]),
    }
    return TileTable(columns, (("border",), ("few_cells", "border"), (), ()), ("a", "b", "c", "d"))


def _manifest(**changes: object) -> Manifest:
    entry = PairEntry(
        pair="case-1",
        patient_id="f" * 64,
        marker="ki67",
        fold=1,
        he_content_sha256="1",
        ihc_content_sha256="2",
        n_records=3,
        n_ratio=2,
        positive=40,
        negative=160,
        registration=RegistrationEntry(4.25, None, "accept", ("mirrored",)),
        shards=(ShardEntry("case-1-00000-of-00001.tfrecord", "0", 1, 3),),
    )
    manifest = Manifest(
        tiling=TilingEntry(307.2, 307.2, 1024),
        value_definition="positive_ratio",
        markers=("ki67",),
        n_folds=2,
        min_tumour_cells=50,
        patient_key_fingerprint="0" * 16,
        accept_unreviewed=False,
        pairs=(entry,),
        excluded=(ExcludedEntry("case-2", "<b>H&E slide</b>: cut off"),),
    )
    return dataclasses.replace(manifest, **changes)


def test_the_summary_counts_records_and_not_tiles_left_out(tmp_path: Path) -> None:
    used = Used(_table(), (0, 1, 2), ("dab_vector_published",))
    np.testing.assert_allclose(used.counts(_manifest()), [[30, 10], [100, 100]])  # 3 is no record, 1 has no weight
    text = write_summary(tmp_path, _manifest(), {"case-1": used}, {"case-1": tmp_path}).read_text()
    for expected in (
        "20.0 % (40 of 200 tumour cells positive)",
        "median 4.2 µm, p95 – µm, accept; one section lies upside down",
        "4 built, 3 records, 2 with a value",
        "few cells 1, border of the scan 2",
        FLAG_SENTENCES["dab_vector_published"],
        "&lt;b&gt;H&amp;E slide&lt;/b&gt;: cut off",
        "Folds without patients",
        "data:image/png;base64",
    ):
        assert expected in text, expected
    assert "accept-unreviewed" not in text
    assert "f" * 64 not in text


def test_the_summary_of_counts_divides_by_tissue_and_not_by_cells(tmp_path: Path) -> None:
    """A tile without any cell is a count like any other; as a ratio it was not a number, and no page was written."""
    table = _table()
    table = dataclasses.replace(table, columns={k: v.copy() for k, v in table.columns.items()})
    table["positive"][0] = table["negative"][0] = 0
    used = Used(table, (0, 1, 2), ())
    manifest = _manifest(value_definition="negative_count")
    counted, tissue = used.counts(manifest)
    np.testing.assert_allclose(counted, [0, 90])
    np.testing.assert_allclose(tissue, [0.3072**2, 0.3072**2 / 2])
    text = write_summary(tmp_path, manifest, {"case-1": used}, {"case-1": tmp_path}).read_text()
    assert f"{90 / (1.5 * 0.3072**2):,.0f} /mm²" in text
    assert "negative tumour cells per mm² of tissue" in text


def test_a_waiver_is_said(tmp_path: Path) -> None:
    manifest = _manifest(accept_unreviewed=True, pairs=(), markers=())
    assert "--accept-unreviewed" in write_summary(tmp_path, manifest, {}, {}).read_text()


def test_no_flag_of_a_record_is_left_out() -> None:
    """A flag that the page does not know was not shown at all."""
    assert set(BY_KEY["tile/flags"].meaning.split(", ")) <= set(_FLAG_WORDS)


def test_a_share_of_stained_cells_is_not_called_her2(tmp_path: Path) -> None:
    manifest = _manifest()
    entry = dataclasses.replace(manifest.pairs[0], marker="her2")
    manifest = dataclasses.replace(manifest, markers=("her2",), pairs=(entry,))
    used = {"case-1": Used(_table(), (0, 2, 3), ())}
    assert "<h2>HER2-stained</h2>" in write_summary(tmp_path, manifest, used, {"case-1": tmp_path}).read_text()


def test_what_is_odd_about_the_slides_of_a_pair_is_told(tmp_path: Path) -> None:
    registration = plain_registration(toy_transform(40))
    odd = dataclasses.replace(registration.ihc, warnings=("pixels: 3 of 64 tiles were never written",))
    write_registration(dataclasses.replace(registration, ihc=odd), tmp_path)
    assert (tmp_path / JSON_NAME).is_file()
    path = write_summary(tmp_path, _manifest(), {"case-1": Used(_table(), (0, 1, 2), ())}, {"case-1": tmp_path})
    assert "IHC: pixels: 3 of 64 tiles were never written" in path.read_text(encoding="utf-8")
