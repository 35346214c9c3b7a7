import pytest

from train.__main__ import main


@pytest.mark.slow
def test_every_engine_is_timed(capsys):
    assert main(["benchmark", "engines", "--views", "64x64", "--photos", "2", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert [line.count("ms a photo") for line in shown.splitlines()] == [0, 1, 1, 1]
    assert "1.0 × as fast" in shown


def test_invalid_options_are_rejected(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "engines", "--photos", "0"])
    with pytest.raises(SystemExit):
        main(["benchmark", "engines", "--views", "wide"])
    assert "at least 1" in capsys.readouterr().err
