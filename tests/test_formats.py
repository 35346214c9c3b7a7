import csv
import io
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pytest

from geoclip_core import formats
from geoclip_core.data.tables import read_csv
from geoclip_core.earth.gazetteer import UNIT_LEVELS, Gazetteer
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Candidate, Exif, Failure, Prediction


@pytest.fixture(scope="module")
def prediction():
    here, there = (32.4487, -99.7331), (48.8534, 2.3488)
    abilene, paris = Gazetteer.load().places([here, there])
    return Prediction(
        file='a "quoted", name <&>.jpg',
        model="mini",
        latitude=here[0],
        longitude=here[1],
        radius_km={0.5: 123.456, 0.9: 2345.67},
        candidates=(Candidate(*here, 0.75, abilene), Candidate(*there, 0.25, paris)),
        context={"month": [("July", 0.6), ("June", 0.4)]},
        posterior=Posterior(np.array([here]), np.zeros(1)),
        place=abilene,
        exif=Exif(32.4487, -98.7331, datetime(2024, 7, 1, 12, tzinfo=UTC)),
        seconds=0.1234,
        calibrated=True,
    )


FAILURE = Failure("broken.jpg", "broken.jpg is not an image")


def test_json_line_has_the_documented_keys(prediction):
    line = formats.to_json_line(prediction)
    assert "\n" not in line
    record = json.loads(line)
    assert list(record) == [
        "file", "model", "latitude", "longitude", "headline", "levels", "radius_km", "radius_note",
        "candidates", "context", "exif", "given", "moved_km", "without_given",
        "unlike_training_photos", "warning", "claim", "misfits", "similar", "similar_note",
        "seconds",
    ]  # fmt: skip
    assert record["radius_km"] == {"50": 123.5, "90": 2345.7}
    assert record["candidates"][0] == {
        "latitude": 32.4487,
        "longitude": -99.7331,
        "probability": 0.75,
        "place": "Abilene, Taylor County, Texas, United States",
    }
    july, june = record["context"]["month"]
    assert july == {"label": "July", "probability": 0.6}
    assert june["label"] == "June"
    assert record["exif"]["captured_at"] == "2024-07-01T12:00:00+00:00"
    assert json.loads(formats.to_json_line(FAILURE)) == {
        "file": "broken.jpg",
        "error": "broken.jpg is not an image",
    }


def test_csv_has_one_row_per_photo(prediction):
    rows = list(csv.DictReader(io.StringIO(formats.to_csv([prediction, FAILURE]))))
    assert len(rows) == 2
    good, bad = rows
    assert good["file"] == prediction.file
    assert float(good["radius_90_km"]) == 2345.7
    assert good["candidate_2_place"].endswith("France")
    assert good["month"] == "July"
    # one degree of longitude at 32.4487 N: 111.19 km × cos(32.4487°)
    assert float(good["error_km"]) == pytest.approx(93.83, abs=0.05)
    assert bad["error"] == FAILURE.error
    assert bad["latitude"] == ""


def test_geojson_puts_the_longitude_first(prediction):
    collection = json.loads(formats.to_geojson([prediction, FAILURE]))
    assert len(collection["features"]) == 1
    feature = collection["features"][0]
    assert feature["geometry"] == {"type": "Point", "coordinates": [-99.7331, 32.4487]}
    assert feature["properties"]["place"].startswith("Abilene")


def test_kml_is_well_formed_for_any_file_name(prediction):
    text = formats.to_kml([prediction, FAILURE])
    root = ElementTree.fromstring(text.encode())
    space = "{http://www.opengis.net/kml/2.2}"
    placemarks = root.findall(f"{space}Document/{space}Placemark")
    assert len(placemarks) == 1
    assert placemarks[0].find(f"{space}name").text == prediction.file
    assert placemarks[0].find(f"{space}Point/{space}coordinates").text == "-99.733100,32.448700"


def test_text_has_the_radius_with_the_estimate(prediction):
    text = formats.to_text(prediction)
    assert "estimate  32.4487, -99.7331  Abilene, Taylor County, Texas, United States" in text
    assert "50% within 123 km, 90% within 2,346 km" in text
    assert "94 km away" in text
    assert formats.to_text(FAILURE) == "broken.jpg\n  error: broken.jpg is not an image"


def test_text_says_if_even_the_continent_is_uncertain(prediction):
    from dataclasses import replace

    assert "not sure" not in formats.to_text(prediction)
    around = np.array([(32.4, -99.7), (48.9, 2.3), (-1.3, 36.8)])
    unsure = replace(prediction, posterior=Posterior(around, np.log([0.4, 0.3, 0.3])))
    assert "  Perhaps North America (40 %): not sure even of the continent" in formats.to_text(
        unsure
    )


def test_a_level_that_repeats_the_one_before_is_not_read_out(prediction):
    """South America is a continent and a subcontinent; all levels stay in the data."""
    points = np.array([[-33.4, -70.6], [-36.8, -73.0]])  # Santiago and Concepción
    there = replace(prediction, posterior=Posterior(points, np.zeros(2), 5.0))
    assert [level.short for level in there.levels[:3]] == ["South America"] * 2 + ["Chile"]
    assert [level.short for level in there.ladder[:2]] == ["South America", "Chile"]
    assert "levels    South America >99 % > Chile" in formats.to_text(there)


def test_levels_are_in_every_format(prediction):
    from dataclasses import replace

    prediction = replace(prediction, posterior=replace(prediction.posterior, bandwidth_km=150.0))
    record = json.loads(formats.to_json_line(prediction))
    assert record["headline"].startswith("Probably Texas, United States (")
    assert [item["level"] for item in record["levels"]] == list(UNIT_LEVELS)
    country = record["levels"][2]
    assert (country["name"], country["key"]) == ("United States", "US")
    assert country["probability"] > 0.99
    (row,) = csv.DictReader(io.StringIO(formats.to_csv([prediction])))
    assert row["level_state"] == "Texas, United States"
    assert float(row["level_state_probability"]) == record["levels"][3]["probability"] < 1
    assert row["headline"] == record["headline"]
    (feature,) = json.loads(formats.to_geojson([prediction]))["features"]
    assert feature["properties"]["levels"] == record["levels"]
    kml = formats.to_kml([prediction])
    assert record["headline"] in kml
    assert '<Data name="level_continent"><value>North America (&gt;99 %)</value></Data>' in kml
    assert "levels    North America >99 %" in formats.to_text(prediction)


def test_an_uncalibrated_radius_is_marked(prediction):
    from dataclasses import replace

    assert "not calibrated" in formats.to_text(replace(prediction, calibrated=False))


NAMES = (
    "100CANON/IMG_0001.jpg",
    "x" * 90 + ".jpg",
    "Łódź/café.jpg",
    "cafe\u0301.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "+1+1.jpg",
    "-2.jpg",
    "@SUM(A1).jpg",
    "a;=1+1.jpg",
    "'=1.jpg",
    "''quoted'.jpg",
    "\tx.jpg",
    'a "b", c.jpg',
    "line\nbreak.jpg",
    "zero\u200bwidth.jpg",
)


@pytest.mark.parametrize("name", NAMES)
def test_rows_can_be_joined_back_to_files(prediction, name):
    row = replace(prediction, file=name)
    assert json.loads(formats.to_json_line(row))["file"] == name
    assert json.loads(formats.to_geojson([row]))["features"][0]["properties"]["file"] == name
    tree = ElementTree.fromstring(formats.to_kml([row]))
    assert [e.text for e in tree.iter() if e.tag.endswith("}name")][1] == name
    for rows in ([row], [Failure(name, "=1+1")]):
        frame = read_csv(formats.to_csv(rows).encode())
        assert frame["file"].tolist() == [name]


def test_a_name_that_is_not_utf_8_can_be_joined_back(prediction):
    name = os.fsdecode(b"caf\xe9.jpg")
    row = replace(prediction, file=name)
    for text in (formats.to_json_line(row), formats.to_geojson([row]), formats.to_csv([row])):
        text.encode()
    assert json.loads(formats.to_json_line(row))["file"] == name
    assert "caf\\udce9.jpg" in formats.to_csv([row])
    assert "caf\\udce9.jpg" in formats.to_kml([row])
    assert formats.to_text(row).startswith("caf\\udce9.jpg\n")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\uff1d"])
def test_no_cell_of_the_csv_is_a_formula(prediction, start):
    context = {f"{start}f": [(f"{start}l", 0.5)]}
    row = replace(prediction, file=f"{start}1+cmd|x", model=f"{start}m", context=context)
    lines = csv.reader(io.StringIO(formats.to_csv([row]), newline=""))
    cells = [cell for line in lines for cell in line]
    assert {cell for cell in cells if cell.startswith(start)} <= {"-99.7331", "-98.7331"}
    assert f"'{start}1+cmd|x" in cells
    assert "-99.7331" in cells  # a number is no formula


def test_the_source_of_a_position_is_named(prediction):
    row = replace(prediction, exif=replace(prediction.exif, source="XMP in a.xmp"))
    assert json.loads(formats.to_json_line(row))["exif"]["source"] == "XMP in a.xmp"
    assert "GPS       32.4487, -98.7331  from XMP in a.xmp" in formats.to_text(row)
    assert "EXIF      32.4487, -98.7331  (" in formats.to_text(prediction)
    assert read_csv(formats.to_csv([row]).encode())["exif_source"].tolist() == ["XMP in a.xmp"]


def test_a_name_cannot_control_the_terminal(prediction):
    assert "\x1b" not in formats.to_text(replace(prediction, file="a\x1b]0;x\x07.jpg"))


def test_kml_shows_no_picture_of_a_stranger(prediction):
    """Google Earth shows descriptions as HTML."""
    tag = '<img src="http://127.0.0.1:9/beacon">'
    row = replace(prediction, model=tag, radius_note=tag)
    tree = ElementTree.fromstring(formats.to_kml([row]))
    texts = [e.text for e in tree.iter() if e.tag.endswith(("}description", "}value"))]
    assert len(texts) > 1
    assert "&lt;img src=" in texts[0]
    assert not [text for text in texts if "<" in text]
