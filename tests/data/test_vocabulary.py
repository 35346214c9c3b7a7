import json

import numpy as np
import pandas as pd
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import (
    IGNORE_INDEX,
    Vocabulary,
    VocabularyError,
    build_vocabularies,
    class_name,
    climate_vocabulary,
    extended_vocabularies,
    place_name,
)
from tests.data import layout


@pytest.fixture
def dataset(tmp_path):
    return read_dataset(layout.make(tmp_path / "osv"), val_fraction=0)


def test_classes_and_labels_of_a_small_dataset(dataset):
    vocabularies = build_vocabularies(dataset.table)
    assert list(vocabularies) == ["climate", "month", "state", "county", "city"]
    assert vocabularies["state"].keys == (
        "Idaho_US",
        "Kansas_US",
        "Montana_US",
        "Nevada_US",
        "Texas_US",
    )
    assert vocabularies["state"].names == ("Idaho", "Kansas", "Montana", "Nevada", "Texas")
    assert vocabularies["state"].parent is None
    # Two states have a Clark County, two an Abilene: two classes each.
    assert vocabularies["county"].keys == (
        "Ada County_Idaho_US",
        "Clark County_Idaho_US",
        "Clark County_Nevada_US",
        "Dickinson County_Kansas_US",
        "Taylor County_Texas_US",
    )
    assert vocabularies["county"].names[1:3] == ("Clark County", "Clark County")
    assert vocabularies["county"].parent == (0, 0, 3, 1, 4)
    assert vocabularies["county"].parent_feature == "state"
    assert vocabularies["city"].names == ("Abilene", "Abilene", "Boise", "Dubois", "Las Vegas")
    assert vocabularies["city"].parent == (3, 4, 0, 1, 2)
    labels = dataset.labels(vocabularies)
    unknown = IGNORE_INDEX
    assert labels["state"].tolist() == [0, 3, 0, 4, 1, 2, 4, 3]
    # Montana's photo has no county; El Paso County is only in test.
    assert labels["county"].tolist() == [0, 2, 1, 4, 3, unknown, unknown, 2]
    assert labels["city"].tolist() == [2, 4, 3, 1, 0, unknown, unknown, 4]
    assert labels["month"].tolist() == [0, 7, 7, unknown, 11, 4, 11, 0]
    assert labels["climate"][5] == unknown
    assert all(values.dtype == np.int64 for values in labels.values())


def test_vocabularies_come_from_the_training_rows_only(dataset):
    only_test = dataset.split("test")
    with pytest.raises(VocabularyError, match="no training rows"):
        build_vocabularies(only_test.table)
    assert len(build_vocabularies(only_test.table, ("climate", "month"))) == 2
    city = build_vocabularies(dataset.table, ("city",))["city"]
    assert city.parent is None
    assert "El Paso_El Paso County_Texas_US" not in city.keys


def test_country_can_be_a_feature(dataset):
    vocabularies = build_vocabularies(dataset.table, ("country", "state", "city"))
    assert vocabularies["country"].keys == ("US",)
    assert vocabularies["state"].parent == (0,) * 5
    assert vocabularies["city"].parent_feature == "state"
    assert vocabularies["city"].parent == (1, 4, 0, 0, 3)


def test_unknown_feature_is_named(dataset):
    with pytest.raises(VocabularyError, match=r"'soil'.*climate, month"):
        build_vocabularies(dataset.table, ("climate", "soil"))


def test_vocabulary_is_the_same_after_json(dataset):
    for vocabulary in build_vocabularies(dataset.table, ("climate", "county", "state")).values():
        assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ["a", "a"]}, "occurs twice"),
        ({"keys": ["a"]}, "2 names"),
        ({"keys": "ab"}, "must be a list of str"),
        ({"names": [1, 2]}, "must be a list of str"),
        ({"parent": [0]}, "1 parents"),
        ({"parent": [0, 1.5]}, "must be a list of int"),
        ({"parent": [0, -2]}, "below -1"),
        ({"parent_feature": None}, "go together"),
        ({"feature": "soil"}, "known features"),
    ],
)
def test_damaged_vocabulary_is_refused(change, message):
    content = {
        "feature": "county",
        "keys": ["a", "b"],
        "names": ["A", "B"],
        "parent": [0, 0],
        "parent_feature": "state",
    }
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_json(content | change)


def test_missing_and_unknown_keys_are_encoded_as_ignore_index():
    values = pd.Series(["Cfa", None, "Cfz", np.nan, "EF"], dtype="object")
    assert climate_vocabulary().encode(values).tolist() == [14, -100, -100, -100, 29]
    assert climate_vocabulary().encode([]).tolist() == []


def test_labels_add_the_larger_place_where_names_repeat():
    keys = ("Lincoln County_Idaho_US", "Lincoln County_Nevada_US", "Ada County_Idaho_US")
    counties = Vocabulary("county", keys, ("Lincoln County", "Lincoln County", "Ada County"))
    assert counties.labels == ("Lincoln County, Idaho", "Lincoln County, Nevada", "Ada County")


@pytest.mark.parametrize(
    ("feature", "key", "name"),
    [
        ("climate", 14, "Cfa, temperate, no dry season, hot summer"),
        ("climate", "14", "Cfa, temperate, no dry season, hot summer"),
        ("climate", 14.0, "Cfa, temperate, no dry season, hot summer"),
        ("climate", "Cfa", "Cfa"),
        ("month", "0", "January"),
        ("month", "January", "January"),
        ("state", "Bavaria_DE", "Bavaria, Germany"),
        ("city", "Paris_Ile-de-France__FR", "Paris, Ile-de-France, France"),
        ("county", "Ada County_Idaho_US", "Ada County, Idaho"),
        ("country", "FJ", "Fiji"),
        ("country", "US", "United States"),
        ("state", "Texas", "Texas"),
        ("state", "other", "other"),
    ],
)
def test_name_of_a_class(feature, key, name):
    assert class_name(feature, key) == name


def test_name_of_a_place_without_a_state():
    assert place_name("_TC") == "Turks and Caicos Islands"
    assert place_name("_") == "_"


def test_extended_vocabularies_keep_the_indices_and_append_new_places():
    def table(*rows):
        frame = pd.DataFrame(rows, columns=["country", "state"], dtype="str")
        frame["country_key"], frame["split"] = frame["country"], "train"
        return frame.assign(state_key=frame["state"] + "_" + frame["country"])

    known = build_vocabularies(table(("US", "Texas"), ("FR", "Corse")), ("country", "state"))
    assert known["state"].keys == ("Corse_FR", "Texas_US")
    both = extended_vocabularies(known, table(("AT", "Tirol"), ("US", "Texas"), ("US", "Iowa")))
    assert both["country"].keys == ("FR", "US", "AT")
    assert both["state"].keys == ("Corse_FR", "Texas_US", "Iowa_US", "Tirol_AT")
    assert both["state"].parent == (0, 1, 1, 2)
    assert list(both) == ["country", "state"]
    assert extended_vocabularies(known, table(("US", "Texas"))) == known
