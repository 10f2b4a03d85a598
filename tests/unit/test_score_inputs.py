"""Which slides are scored, and what is refused before work begins."""

from pathlib import Path

import pytest

from virtual_stain.errors import ConfigError, InputError
from virtual_stain.scoring.inputs import collect_inputs, read_slide_table


def test_results_go_beside_the_caller_or_into_one_folder():
    alone = collect_inputs([Path("/data/a.svs"), Path("b.ome.tiff")], None, out=None, mpp=(0.25, 0.25))
    assert [str(i.folder) for i in alone] == ["a-vstain", "b-vstain"]
    assert alone[0].ref.mpp_override == (0.25, 0.25)
    together = collect_inputs([Path("a.svs"), Path("b.svs")], None, out=Path("out"), mpp=None)
    assert {str(i.folder) for i in together} == {"out"}


@pytest.mark.parametrize("pair", [("x/a.svs", "y/a.ndpi"), ("a.svs", "a.svs"), ("A.svs", "a.svs")])
def test_two_slides_of_one_stem_are_refused(pair):
    with pytest.raises(ConfigError, match="different names") as error:
        collect_inputs([Path(p) for p in pair], None, out=Path("o"), mpp=None)
    assert pair[1] in str(error.value)


def test_no_slide_is_refused():
    with pytest.raises(ConfigError, match="at least one slide"):
        collect_inputs([], None, out=None, mpp=None)


def test_a_table_with_names_pixel_sizes_and_defaults(tmp_path):
    table = tmp_path / "slides.csv"
    table.write_text(
        'slide,mpp,name\nä b.svs,0.25,first\nsub/a.svs,"0.25,0.26",second\na.svs,,\n', encoding="utf-8-sig"
    )
    refs = read_slide_table(table, (0.5, 0.5))
    assert [r.path for r in refs] == [tmp_path / "ä b.svs", tmp_path / "sub/a.svs", tmp_path / "a.svs"]
    assert [r.mpp_override for r in refs] == [(0.25, 0.25), (0.25, 0.26), (0.5, 0.5)]
    assert [r.stem for r in refs] == ["first", "second", "a"]


def test_all_bad_rows_are_reported_at_once_with_their_lines(tmp_path):
    table = tmp_path / "slides.csv"
    table.write_text(
        "slide,mpp,name\na.svs,zero,\n,0.25,\nb.svs,0.25,sub/b\nc.svs,0.25,0.26,c\nd.svs,-1,\ne.svs,0.5,e\n"
    )
    with pytest.raises(InputError) as error:
        read_slide_table(table)
    text = str(error.value)
    for line in (2, 3, 4, 5, 6):
        assert f"line {line}:" in text
    assert "line 7" not in text


@pytest.mark.parametrize("text", ["", "path,mpp\na,1\n", "slide,mpp,size\na,1,2\n", "slide\n"])
def test_a_table_of_another_kind_is_refused(tmp_path, text):
    table = tmp_path / "slides.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=r"slides\.csv"):
        read_slide_table(table)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv"):
        read_slide_table(tmp_path / "none.csv")
