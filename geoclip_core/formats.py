"""Write predictions as text, JSON lines, CSV, GeoJSON or KML."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree  # only written  # nosec B405

from geoclip_core.earth.gazetteer import UNIT_LEVELS
from geoclip_core.files import escaped
from geoclip_core.prediction import Claim, Failure, Prediction, SimilarPhoto

if TYPE_CHECKING:  # for annotations alone: most commands need no pyarrow
    import pyarrow as pa

Row = Prediction | Failure
CONTEXT_CLASSES = 5
"""Number of classes per context feature in the JSON."""
CLAIM_COLUMNS = (
    "place",
    "verdict",
    "latitude",
    "longitude",
    "distance_km",
    "inside_50",
    "inside_90",
    "better_mass",
    "likelihood_ratio",
    "p_value",
    "held_out_photos",
)
_KML = "http://www.opengis.net/kml/2.2"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _record(row: Row) -> dict[str, Any]:
    """Return the JSON object of a prediction, or `{"file", "error"}` of a failure."""
    if isinstance(row, Failure):
        return {"file": row.file, "error": row.error}
    exif = None
    if row.exif is not None:
        captured_at = row.exif.captured_at
        exif = {
            "latitude": row.exif.latitude,
            "longitude": row.exif.longitude,
            "captured_at": captured_at.isoformat() if captured_at else None,
            "source": row.exif.source,
            "camera": row.exif.camera,
        }
    return {
        "file": row.file,
        "model": row.model,
        "latitude": round(row.latitude, 6),
        "longitude": round(row.longitude, 6),
        "headline": row.headline,
        "levels": [
            {
                "level": level.level,
                "name": level.name,
                "key": level.key,
                "probability": round(level.probability, 6),
                "given": level.given,
            }
            for level in row.levels
        ],
        "radius_km": {f"{mass * 100:g}": round(km, 1) for mass, km in row.radius_km.items()},
        "radius_note": row.radius_note,
        "candidates": [
            {
                "latitude": round(candidate.latitude, 6),
                "longitude": round(candidate.longitude, 6),
                "probability": round(candidate.probability, 6),
                "place": candidate.place.label,
            }
            for candidate in row.candidates
        ],
        "context": {
            feature: [
                {"label": label, "probability": round(probability, 6)}
                for label, probability in classes[:CONTEXT_CLASSES]
            ]
            for feature, classes in row.context.items()
        },
        "exif": exif,
        "given": row.given or None,
        "moved_km": None if row.moved_km is None else round(row.moved_km, 1),
        "without_given": None
        if row.without_given is None
        else {
            "latitude": round(row.without_given.latitude, 6),
            "longitude": round(row.without_given.longitude, 6),
            "place": row.without_given.place.label,
        },
        "unlike_training_photos": None if row.familiarity is None else row.familiarity.unusual,
        "warning": row.warning,
        "claim": None if row.claim is None else _claim(row.claim),
        "misfits": list(row.misfits),
        "similar": None if row.similar is None else [_similar(one) for one in row.similar.photos],
        "similar_note": None if row.similar is None else row.similar.note,
        "seconds": round(row.seconds, 3),
    }


def _similar(photo: SimilarPhoto) -> dict[str, Any]:
    return {
        "file": None if photo.file is None else str(photo.file),
        "similarity": round(photo.similarity, 4),
        "latitude": round(photo.latitude, 6),
        "longitude": round(photo.longitude, 6),
        "place": photo.place.label,
        "distance_km": round(photo.distance_km, 1),
    }


def _claim(claim: Claim) -> dict[str, Any]:
    ratio, p_value = claim.likelihood_ratio, claim.p_value
    return {
        "place": claim.name,
        "latitude": round(claim.latitude, 6),
        "longitude": round(claim.longitude, 6),
        "verdict": claim.verdict,
        "distance_km": round(claim.distance_km, 1),
        "inside": {f"{mass * 100:g}": inside for mass, inside in claim.inside.items()},
        "better_mass": round(claim.better_mass, 4),
        "likelihood_ratio": None if ratio is None else float(f"{ratio:.4g}"),
        "p_value": None if p_value is None else round(p_value, 4),
        "held_out_photos": claim.held_out,
    }


def to_json_line(row: Row) -> str:
    """Return the JSON object of a row on one line, without a newline."""
    return _json(_record(row))


def _json(value: object) -> str:
    """Return JSON; bytes of names that are not UTF-8 are escaped, and read back by `json.loads`."""
    return escaped(json.dumps(value, ensure_ascii=False))


def to_text(row: Row) -> str:
    """Return a few lines for the terminal, with the radius below the estimate."""
    if isinstance(row, Failure):
        return f"{_shown(row.file)}\n  error: {row.error}"
    lines = [
        _shown(row.file),
        f"  {row.headline}",
    ]
    if row.warning is not None:
        lines.append(f"  warning   {row.warning}")
    if row.levels:
        ladder = " > ".join(f"{level.short} {level.percent}" for level in row.ladder)
        lines.append(f"  levels    {ladder}")
    lines += [
        f"  estimate  {row.latitude:.4f}, {row.longitude:.4f}  {row.place.label}",
        f"  radius    {_radii(row)}",
    ]
    for number, candidate in enumerate(row.candidates, 1):
        lines.append(f"  {number}. {candidate.probability:>6.1%}  {candidate.place.label}")
    for feature, classes in row.context.items():
        if classes:
            shown = "; ".join(f"{label} {share:.0%}" for label, share in classes[:3])
            lines.append(f"  {feature:<9} {shown}")
    if row.hint_sentence is not None:
        lines.append(f"  given     {row.hint_sentence}")
    if row.claim is not None:
        lines.append(f"  claim     {row.claim.name}: {row.claim.verdict}")
        lines += [f"            {sentence}" for sentence in row.claim.sentences]
    if row.misfits:
        lines.append(f"  misfits   {', '.join(map(_shown, row.misfits))}")
    if row.similar is not None:
        for number, photo in enumerate(row.similar.photos, 1):
            where = f"{photo.place.label} ({photo.distance_km:,.0f} km from the estimate)"
            file = "" if photo.file is None else f"  {_shown(str(photo.file))}"
            lines.append(f"  similar   {number}. {photo.similarity:.2f}  {where}{file}")
        if row.similar.note:
            lines.append(f"            {_shown(row.similar.note)}")
    if row.exif is not None and row.error_km is not None:
        source = "" if row.exif.source == "EXIF" else f"  from {_shown(row.exif.source)}"
        lines.append(
            f"  {'GPS' if source else 'EXIF':<9} {row.exif.latitude:.4f}, {row.exif.longitude:.4f}"
            f"{source}  (the estimate is {row.error_km:,.0f} km away)"
        )
    return "\n".join(lines)


def csv_header(features: Sequence[str], candidates: int) -> list[str]:
    """Return the columns of `csv_row` for a model's features and a number of candidates."""
    columns = ["file", "model", "latitude", "longitude", "radius_50_km", "radius_90_km", "place"]
    for number in range(1, candidates + 1):
        prefix = f"candidate_{number}_"
        columns += [prefix + name for name in ("latitude", "longitude", "probability", "place")]
    columns += ["headline", "warning"]
    for level in UNIT_LEVELS:
        columns += [f"level_{level}", f"level_{level}_probability"]
    for feature in features:
        columns += [feature, f"{feature}_probability"]
    columns += ["given", "moved_km"]
    columns += [f"claim_{name}" for name in CLAIM_COLUMNS]
    columns += ["exif_latitude", "exif_longitude", "captured_at", "exif_source"]
    columns += ["error_km", "seconds", "error"]
    return columns


def csv_row(row: Row) -> dict[str, Any]:
    """Return column -> cell of one row."""
    record = _record(row)
    if isinstance(row, Failure):
        return record
    cells = {key: record[key] for key in ("file", "model", "latitude", "longitude", "seconds")}
    cells |= {"place": row.place.label, "headline": row.headline, "warning": row.warning}
    for level in record["levels"]:
        cells[f"level_{level['level']}"] = level["name"]
        cells[f"level_{level['level']}_probability"] = level["probability"]
    cells |= {f"radius_{mass}_km": km for mass, km in record["radius_km"].items()}
    for number, candidate in enumerate(record["candidates"], 1):
        cells |= {f"candidate_{number}_{key}": value for key, value in candidate.items()}
    for feature, classes in record["context"].items():
        if classes:
            cells[feature] = classes[0]["label"]
            cells[f"{feature}_probability"] = classes[0]["probability"]
    if row.given:
        cells["given"] = "; ".join(f"{feature}={label}" for feature, label in row.given.items())
        cells["moved_km"] = record["moved_km"]
    if claim := record["claim"]:
        inside = claim.pop("inside")
        claim |= {f"inside_{mass}": within for mass, within in inside.items()}
        cells |= {f"claim_{name}": claim[name] for name in CLAIM_COLUMNS}
    if record["exif"]:
        cells["exif_latitude"] = record["exif"]["latitude"]
        cells["exif_longitude"] = record["exif"]["longitude"]
        cells["captured_at"] = record["exif"]["captured_at"]
        cells["exif_source"] = record["exif"]["source"]
    if row.error_km is not None:
        cells["error_km"] = round(row.error_km, 3)
    return cells


def to_csv(rows: Iterable[Row]) -> str:
    """Return a table with one row per photo; failures have only `file` and `error`."""
    from geoclip_core.data.tables import csv_line  # imports pandas, which takes a second

    rows = list(rows)
    found = [row for row in rows if isinstance(row, Prediction)]
    features = list(dict.fromkeys(feature for row in found for feature in row.context))
    count = max((len(row.candidates) for row in found), default=0)
    header = csv_header(features, count)
    return csv_line(header) + "".join(to_csv_line(row, header) for row in rows)


def to_csv_line(row: Row, header: Sequence[str]) -> str:
    """Return a row below a header of `csv_header`, with its line end and without formulas."""
    from geoclip_core.data.tables import csv_line

    cells = csv_row(row)
    return csv_line(cells.get(column, "") for column in header)


def table_schema(features: Sequence[str], candidates: int) -> "pa.Schema":
    """Return the columns of `csv_header` with their types, for Parquet."""
    import pyarrow as pa

    texts = {"file", "model", "place", "headline", "warning", "given", "captured_at", "error"}
    texts |= {"exif_source", "claim_place", "claim_verdict", *features}
    texts |= {f"level_{level}" for level in UNIT_LEVELS}
    texts |= {f"candidate_{number}_place" for number in range(1, candidates + 1)}
    others = {"claim_inside_50": pa.bool_(), "claim_inside_90": pa.bool_()}
    others["claim_held_out_photos"] = pa.int64()
    columns = csv_header(features, candidates)
    kinds = {name: pa.string() if name in texts else pa.float64() for name in columns} | others
    return pa.schema(list(kinds.items()))


def to_table(rows: Iterable[Row], schema: "pa.Schema") -> "pa.Table":
    """Return a table of `table_schema` with one row per photo; failures have `file` and `error`.

    Unlike those of a CSV, its cells need no marks against formulas.
    """
    import pyarrow as pa

    records = [
        {name: escaped(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}
        for cells in map(csv_row, rows)
    ]
    return pa.Table.from_pylist(records, schema)


def to_geojson(rows: Iterable[Row]) -> str:
    """Return a GeoJSON feature collection; failures have no position and are left out."""
    features = []
    for row in rows:
        if isinstance(row, Prediction):
            record = _record(row)
            point = [record.pop("longitude"), record.pop("latitude")]  # order: RFC 7946
            geometry = {"type": "Point", "coordinates": point}
            properties = record | {"place": row.place.label, "estimate": True}
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return _json({"type": "FeatureCollection", "features": features})


def to_kml(rows: Iterable[Row]) -> str:
    """Return KML 2.2 with one placemark per prediction; failures are left out."""
    ElementTree.register_namespace("", _KML)
    root = ElementTree.Element(f"{{{_KML}}}kml")
    document = _child(root, "Document")
    _child(document, "name", "Estimated places of photos")
    for row in rows:
        if isinstance(row, Failure):
            continue
        placemark = _child(document, "Placemark")
        _child(placemark, "name", _printable(row.file))
        description = f"{row.headline}. Estimate: {row.place.label}. Radius {_radii(row)}."
        if row.warning is not None:
            description = f"{row.warning} {description}"
        _child(placemark, "description", _without_tags(description))
        data = _child(placemark, "ExtendedData")
        for level in row.levels:
            item = _child(data, "Data")
            item.set("name", f"level_{level.level}")
            _child(item, "value", _without_tags(f"{level.name} ({level.percent})"))
        if row.claim is not None:
            item = _child(data, "Data")
            item.set("name", "claim")
            _child(item, "value", _without_tags(f"{row.claim.name}: {row.claim.verdict}"))
        point = _child(placemark, "Point")
        _child(point, "coordinates", f"{row.longitude:.6f},{row.latitude:.6f}")
    text = ElementTree.tostring(root, encoding="unicode")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + text


def _radii(row: Prediction) -> str:
    shown = ", ".join(f"{mass:.0%} within {km:,.0f} km" for mass, km in row.radius_km.items())
    if row.radius_note is not None:
        return f"{shown} ({row.radius_note})"
    return shown if row.calibrated else shown + " (not calibrated)"


def _child(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{_KML}}}{tag}")
    child.text = text
    return child


def _shown(text: str) -> str:
    """Return a file name as one line for a terminal."""
    text = escaped(text)
    return "".join(character if character.isprintable() else "?" for character in text)


def _without_tags(text: str) -> str:
    """Return a text as HTML: Google Earth shows descriptions as such, and loads their pictures."""
    return _printable(text).replace("<", "&lt;")


def _printable(text: str) -> str:
    """Replace the characters that XML does not allow, which are control characters."""
    return _NOT_XML.sub("\ufffd", escaped(text))
