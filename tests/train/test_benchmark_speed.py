import dataclasses

import pytest

from tests.geoclip.geoclip_files import published_wheel
from train.__main__ import main
from train.benchmarks.speed import GalleryOptions, benchmark_gallery

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 14,
}


@pytest.mark.slow
def test_the_package_and_this_one_give_the_same_places():
    result = benchmark_gallery(GalleryOptions(wheel=published_wheel(), places=1500), SMALL)
    assert 1400 < result.places < 1700
    assert result.equal_places
    assert result.probability_difference < 1e-3
    text = result.text()
    assert "the same" in text
    assert "geoclip==1.3.0" in text


@pytest.mark.slow
def test_the_command_passes_its_options(monkeypatch, capsys):
    from train.benchmarks import speed

    asked = []

    def small(options):
        asked.append(options)
        return benchmark_gallery(dataclasses.replace(options, wheel=published_wheel()), SMALL)

    monkeypatch.setattr(speed, "benchmark_gallery", small)
    assert main(["benchmark", "gallery", "--places", "1500", "--queries", "1"]) == 0
    assert asked == [GalleryOptions(places=1500, queries=1, top_k=5, seed=0)]
    assert "the same" in capsys.readouterr().out


def test_invalid_numbers_are_rejected_before_anything_is_loaded(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "gallery", "--queries", "0"])
    assert stop.value.code == 2
    assert "queries" in capsys.readouterr().err


@pytest.mark.slow
def test_every_engine_is_timed(capsys):
    assert main(["benchmark", "engines", "--views", "64x64", "--photos", "2", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert [line.count("ms a photo") for line in shown.splitlines()] == [0, 1, 1, 1]
    assert "1.0 × as fast" in shown


def test_invalid_options_of_engines_are_rejected(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "engines", "--photos", "0"])
    with pytest.raises(SystemExit):
        main(["benchmark", "engines", "--views", "wide"])
    assert "at least 1" in capsys.readouterr().err
