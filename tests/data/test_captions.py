import numpy as np
import pandas as pd
import pytest

from geoclip_core.data.captions import caption, captions, climate_phrase
from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import climate_vocabulary
from tests.data import layout

ABILENE = {
    "city": "Abilene",
    "county": "Taylor County",
    "state": "Texas",
    "month": 6,
    "climate": 14,
}


def test_full_caption_names_every_fact_once():
    assert caption(ABILENE) == (
        "A street photo from Abilene, Taylor County, Texas, taken in July, in a temperate climate "
        "with no dry season and hot summers."
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "A street photo."),
        ({"state": "Texas"}, "A street photo from Texas."),
        ({"month": 0}, "A street photo taken in January."),
        ({"climate": 4}, "A street photo in a hot desert climate."),
        ({"county": "Ada County", "city": None}, "A street photo from Ada County."),
        ({"county": np.nan, "city": pd.NA, "month": -100, "climate": -100}, "A street photo."),
        ({"climate": 0}, "A street photo."),
        (
            {"city": "Carson City", "county": "Carson City", "state": "Nevada"},
            "A street photo from Carson City, Nevada.",
        ),
        ({"city": "  Las\nVegas "}, "A street photo from Las Vegas."),
    ],
)
def test_unknown_facts_are_left_out(row, expected):
    assert caption(row) == expected


def test_the_country_is_named_if_it_is_a_feature():
    row = ABILENE | {"country": "US"}
    assert "United States" not in caption(row)
    features = ("country", "state")
    assert caption(row, features=features) == "A street photo from Texas, United States."


def test_random_captions_keep_at_least_one_fact():
    rng = np.random.default_rng(0)
    seen = {caption(ABILENE, rng, drop_probability=0.5) for _ in range(500)}
    assert len(seen) > 50
    assert "A street photo." not in seen
    starts = {text.split()[3] for text in seen}
    assert starts == {"from", "taken", "in"}
    for text in seen:
        assert text.endswith(".")
        assert "nan" not in text.lower()
        assert ",," not in text
        assert ", ." not in text
        assert "County county" not in text
    assert caption(ABILENE, np.random.default_rng(7)) == caption(ABILENE, np.random.default_rng(7))


def test_drop_probabilities_of_zero_and_one():
    rng = np.random.default_rng(1)
    full = set(caption(ABILENE).rstrip(".").split(", "))
    assert len(caption(ABILENE, rng, drop_probability=0.0)) == len(caption(ABILENE))
    assert len(full) == 5
    one = caption(ABILENE, rng, drop_probability=1.0)
    assert one != "A street photo."


def test_every_climate_has_a_different_phrase():
    phrases = [climate_phrase(symbol) for symbol in climate_vocabulary().keys[1:]]
    assert len(set(phrases)) == 29
    assert all(phrase.startswith("a ") and " climate" in phrase for phrase in phrases)
    assert climate_phrase("Csb") == "a temperate climate with dry, warm summers"
    assert climate_phrase("Dwd") == "a cold climate with dry, very cold winters"
    assert climate_phrase("EF") == "a polar ice-cap climate"
    with pytest.raises(ValueError, match="'Xyz'"):
        climate_phrase("Xyz")


def test_captions_of_a_table(tmp_path):
    table = read_dataset(layout.make(tmp_path, photos=False), val_fraction=0).table
    texts = captions(table)
    assert texts[0] == (
        "A street photo from Boise, Ada County, Idaho, taken in January, in a cold steppe climate."
    )
    assert texts[5] == "A street photo from Montana, taken in May."
    assert texts == [caption(table.iloc[i]) for i in range(len(table))]
