"""The doctor's checks of the tables: places, climates, labels, leaks between the splits."""

import numpy as np

from geoclip_core.data.doctor_findings import Findings
from geoclip_core.data.splits import MIN_DISTANCE_KM, nearest_km
from geoclip_core.earth.climate import UNKNOWN, ClimateRaster
from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.earth.sphere import destination

MANY = 30  # climates that must be known before their mismatch says something about the column
BORDER_KM = 30.0  # two gazetteers may disagree on the state this close to its border


def check_places(findings: Findings) -> None:
    """States that contradict the coordinates."""
    wrong, border, truth = {}, {}, {}
    for split, table in findings.tables.items():
        known = table[["latitude", "longitude", "state_key"]].notna().all(axis=1).to_numpy()
        coordinates = table.loc[known, ["latitude", "longitude"]].to_numpy()
        claimed = table.loc[known, "state_key"].to_numpy(dtype=object)
        found = Gazetteer.load().frame(coordinates)["unique_region"].to_numpy(dtype=object)
        differs = np.flatnonzero(found != claimed)
        near = np.zeros(len(differs), dtype=bool)
        for heading in range(0, 360, 45):
            around = destination(coordinates[differs], float(heading), BORDER_KM)
            there = Gazetteer.load().frame(around)["unique_region"].to_numpy(dtype=object)
            near |= there == claimed[differs]
        rows = np.flatnonzero(known)
        truth[split] = dict(zip(rows[differs].tolist(), found[differs].tolist(), strict=True))
        for masks, chosen in ((wrong, differs[~near]), (border, differs[near])):
            masks[split] = np.zeros(len(table), dtype=bool)
            masks[split][rows[chosen]] = True

    def value(split: str, row: int) -> str:
        return f"{findings.tables[split]['state_key'].iloc[row]}, but lies in {truth[split][row]}"

    message = "the state does not match the coordinates; are latitude and longitude swapped?"
    findings.rows("state-mismatch", "error", message, wrong, value)
    message = "photos close to a state border that the gazetteer puts on its other side"
    findings.rows("state-border", "warning", message, border, value)


def check_climates(findings: Findings) -> None:
    """Climates that contradict the map."""
    differs, total, count = {}, 0, 0
    for split, table in findings.tables.items():
        located = table[["latitude", "longitude"]].notna().all(axis=1)
        known = ((table["climate"] >= 0) & located).to_numpy()
        raster = ClimateRaster.load().indices(
            table.loc[known, ["latitude", "longitude"]].to_numpy()
        )
        off = (raster != UNKNOWN) & (raster != table.loc[known, "climate"].to_numpy())
        differs[split] = np.zeros(len(table), dtype=bool)
        differs[split][np.flatnonzero(known)[off]] = True
        total, count = total + int(known.sum()), count + int(off.sum())
    if total >= MANY and count > 0.5 * total:
        message = (
            "most climates differ from the map of Beck et al. 2018; the column must hold its raw "
            "codes (14 is Cfa), not class indices or another map"
        )
        findings.rows("climate-mismatch", "error", message, differs, drop=False)
    else:
        message = "the climate differs from the map of Beck et al. 2018 at the coordinates"
        findings.rows("climate-mismatch", "warning", message, differs)


def check_labels(findings: Findings) -> None:
    """Labels that are not known, and rows that repeat another."""
    for column in ("state_key", "county_key", "city_key", "climate", "month"):
        masks = {}
        for split, table in findings.tables.items():
            missing = table[column] < 0 if column in ("climate", "month") else table[column].isna()
            masks[split] = missing.to_numpy()
        name = column.removesuffix("_key")
        message = f"photos without a known {name}; they are left out of its training and score"
        findings.rows(f"{name}-unknown", "warning", message, masks)
    masks = {
        split: table.duplicated(["latitude", "longitude", "captured_at"]).to_numpy()
        & table["captured_at"].notna().to_numpy()
        for split, table in findings.tables.items()
    }
    message = "photos with the coordinates and the time of an earlier row"
    findings.rows("row-repeated", "warning", message, masks)


def check_leaks(findings: Findings, drop_near_test: bool = False) -> None:
    """Test photos that training gives away."""
    if not {"train", "test"} <= set(findings.tables):
        return
    train, test = findings.tables["train"], findings.tables["test"]
    same = {"train": train["id"].isin(test["id"]).to_numpy()}
    message = "photos that are in both train and test; a cleaned copy keeps them in test only"
    findings.rows("split-same-id", "error", message, same)
    columns = ["latitude", "longitude"]
    known_train, known_test = (t[columns].notna().all(axis=1).to_numpy() for t in (train, test))
    at_train = train.loc[known_train, columns].to_numpy()
    at_test = test.loc[known_test, columns].to_numpy()
    near = {"test": np.zeros(len(test), dtype=bool)}
    near["test"][known_test] = np.isfinite(nearest_km(at_test, at_train, MIN_DISTANCE_KM))
    message = (
        f"test photos closer than {MIN_DISTANCE_KM:g} km to a training photo; scores on them say "
        "more about memory than about unseen places"
    )
    findings.rows("split-near", "warning", message, near)
    if drop_near_test:
        close = np.isfinite(nearest_km(at_train, at_test, MIN_DISTANCE_KM))
        findings.drop["train"][np.flatnonzero(known_train)[close]] = True
    known = test["sequence"].notna() & test["sequence"].isin(train["sequence"].dropna())
    message = "test photos of a drive (sequence) that train has too"
    findings.rows("split-same-sequence", "warning", message, {"test": known.to_numpy()})
