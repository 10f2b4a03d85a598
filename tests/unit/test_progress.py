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


def test_a_remaining_time_was_told_from_the_first_step_alone(capsys, monkeypatch):
    """The first step of a training waits for compilation: "8031 s left" stood there after one of a thousand."""
    times = [0.0, 60.0, *(60.0 + 2.0 * i for i in range(1, 60))]
    clock = iter(times)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.Console().track(range(len(times) - 1), total=1000, label="training", unit="step"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 1/1000 step, 0.017 step/s"
    told = [line for line in lines if "left" in line]
    assert told[0].endswith("about 33 min left")  # 2 s a step, without the first
