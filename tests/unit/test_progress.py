from virtual_stain import progress


def test_plain_lines_give_rate_and_remaining_time(capsys, monkeypatch):
    clock = iter([0.0, 11.0, 12.0, 23.0, 24.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.Console().track("abcd", total=4, label="tiles", unit="tile")) == list("abcd")
    out, err = capsys.readouterr()
    assert out == ""
    assert "tiles: 1/4 tile, 0.091 tile/s, 33 s left" in err
    assert "tiles: 4/4 tile, 0.17 tile/s" in err


def test_quiet_says_nothing(capsys):
    assert list(progress.QUIET.track([1, 2], total=2, label="x")) == [1, 2]
    progress.QUIET.say("x")
    assert capsys.readouterr() == ("", "")
