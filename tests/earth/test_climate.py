import threading

import numpy as np
import pandas as pd
import pytest

from geoclip_core.earth import climate
from geoclip_core.earth.climate import (
    UNKNOWN,
    ClimateRaster,
    climate_classes,
    climate_of_code,
    climate_of_symbol,
    index_of_code,
)


@pytest.fixture(scope="module")
def raster():
    return ClimateRaster.load()


def test_thirty_classes_in_the_order_of_their_index():
    classes = climate_classes()
    assert [c.index for c in classes] == list(range(30))
    symbols = " ".join(c.symbol for c in classes)
    assert symbols == (
        "unknown Af Am Aw BWh BWk BSh BSk Csa Csb Csc Cwa Cwb Cwc Cfa Cfb Cfc Dsa Dsb Dsc "
        "Dwa Dwb Dwc Dwd Dfa Dfb Dfc Dfd ET EF"
    )
    assert len({c.rgb for c in classes}) == 30


def test_labels_and_colours_of_classes():
    assert climate_of_symbol("Cfa").label == "Cfa, temperate, no dry season, hot summer"
    assert climate_of_symbol("BSk").label == "BSk, arid, steppe, cold"
    assert climate_classes()[0].label == "unknown (water or no data)"
    assert climate_of_symbol("Cfa").hex == "#c8ff50"
    with pytest.raises(KeyError, match="Cfz"):
        climate_of_symbol("Cfz")


@pytest.mark.parametrize(
    ("code", "index", "symbol"),
    [
        (1, 1, "Af"),
        (14, 14, "Cfa"),
        (15, 15, "Cfb"),
        (19, 19, "Dsc"),
        (21, 20, "Dwa"),
        (25, 24, "Dfa"),
        (29, 28, "ET"),
        (30, 29, "EF"),
    ],
)
def test_codes_above_twenty_move_down_by_one(code, index, symbol):
    assert index_of_code(code) == index
    assert climate_classes()[index].symbol == symbol
    assert climate_of_code(code) == climate_classes()[index]


def test_codes_without_a_class_become_unknown():
    assert index_of_code([0, 20, np.nan]).tolist() == [UNKNOWN] * 3
    assert UNKNOWN == -100
    dsd = climate_of_code(20)
    assert (dsd.symbol, dsd.index) == ("Dsd", UNKNOWN)
    assert dsd.label == "Dsd, cold, dry summer, very cold winter"


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([14, None, 21], dtype="Int64"),
        pd.Series([14.0, np.nan, 21.0]),
        pd.Series(["14", None, "21.0"], dtype="str"),
        np.array([14, None, 21], dtype=object),
        [14, None, 21],
    ],
)
def test_codes_are_read_from_columns_of_any_type(column):
    assert index_of_code(column).tolist() == [14, UNKNOWN, 20]


def test_indices_have_the_shape_of_the_codes():
    assert index_of_code(7).shape == ()
    assert index_of_code([[1, 2], [3, 30]]).tolist() == [[1, 2], [3, 29]]
    assert index_of_code([]).shape == (0,)


@pytest.mark.parametrize("bad", [31, -1, 2.5, "Cfa", -100])
def test_invalid_codes_are_refused_by_value(bad):
    with pytest.raises(ValueError, match=r"[Cc]limate code"):
        index_of_code([1, bad])


def test_class_of_an_invalid_code_is_refused():
    with pytest.raises(ValueError, match="31"):
        climate_of_code(31)


@pytest.mark.parametrize(
    ("place", "symbol"),
    [
        ((29.7604, -95.3698), "Cfa"),  # Houston
        ((39.1836, -96.5717), "Dfa"),  # Manhattan, Kansas
        ((39.7392, -104.9903), "BSk"),  # Denver
        ((-43.9500, -176.5600), "Cfb"),  # Chatham Islands
        ((-3.1190, -60.0217), "Af"),  # Manaus
        ((25.0, 5.0), "BWh"),  # Sahara
        ((51.5074, -0.1278), "Cfb"),  # London
        ((62.0272, 129.7320), "Dfd"),  # Yakutsk
        ((72.0, -40.0), "EF"),  # Greenland's ice
        ((-90.0, 0.0), "EF"),
        ((66.52, 124.93), "Dsd"),  # on the map, but in no photo of the dataset
        ((40.0, -40.0), "unknown"),  # Atlantic
        ((90.0, 0.0), "unknown"),
    ],
)
def test_climate_of_known_places(raster, place, symbol):
    assert climate_of_code(raster.codes(place)).symbol == symbol


def test_indices_are_unknown_on_water_and_in_dsd(raster):
    found = raster.indices([(39.1836, -96.5717), (40, -40), (66.52, 124.93)])
    assert found.tolist() == [24, UNKNOWN, UNKNOWN]
    assert raster.is_land([(39.1836, -96.5717), (40, -40)]).tolist() == [True, False]


def test_longitudes_wrap_and_the_corners_of_the_map_are_valid(raster):
    assert raster.codes((39.1836, -96.5717 + 360)) == raster.codes((39.1836, -96.5717))
    assert raster.codes([(90, 180), (-90, -180), (90, -180), (-90, 180)]).shape == (4,)
    with pytest.raises(ValueError, match="Coordinate 0"):
        raster.codes([(91, 0)])


def test_run_length_coding_equals_the_full_raster():
    full = np.random.default_rng(3).integers(0, 3, (6, 12)).astype(np.uint8)
    full[2:4] = 2
    flat = full.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    small = ClimateRaster(np.diff(starts, prepend=0).astype(np.uint32), flat[starts], full.shape)
    latitude, longitude = np.meshgrid(75 - 30 * np.arange(6), -165 + 30 * np.arange(12))
    coordinates = np.stack([latitude.T, longitude.T], axis=-1)
    np.testing.assert_array_equal(small.codes(coordinates), full)


def test_raster_is_read_once_from_any_thread(monkeypatch):
    monkeypatch.setattr(climate, "_CACHE", {})
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(ClimateRaster.load())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(raster) for raster in found}) == 1
