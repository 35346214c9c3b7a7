"""Read CSVs as spreadsheets and people write them, and write CSVs that are safe to open in one.

`read_csv` is the reader of datasets, positions and guesses. It takes commas, semicolons, tabs or
vertical bars, UTF-8 with or without a mark or UTF-16 with one, lines above the header, and column
names in other words (`ALIASES`).
`Problems` collects the wrong values of a table with their rows.

A spreadsheet runs a cell that begins with =, +, - or @ as a formula, and file names come from
strangers. `write_csv` puts an apostrophe before such cells, as spreadsheets themselves mark text,
and `read_csv` takes it away again.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from geoclip_core.data.metadata import parse_degrees
from geoclip_core.errors import DatasetError, FileError
from geoclip_core.files import escaped, open_file

MAX_CSV_BYTES = 512 * 10**6
"""Larger files are refused; the tables of OSV-Mini-129k have 50 MB."""
MAX_COLUMNS = 1000
LARGE_BYTES = 2 * 10**6
"""Size from which a table is read by the faster parser if that is certain to read the same."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "photoid", "imageid"),
    "file": (
        *("file", "sourcefile", "path", "filepath", "filename", "file:filename", "photo", "image"),
        *("imagename", "imagefile", "imagepath", "imgpath", "imgname", "photoname", "name"),
    ),
    "latitude": (
        *("latitude", "lat", "gpslatitude", "composite:gpslatitude", "gpslat", "decimallatitude"),
        *("exif:gpslatitude", "gps:gpslatitude", "xmp:gpslatitude", "predictedlatitude"),
    ),
    "longitude": (
        *("longitude", "lon", "lng", "long", "gpslongitude", "composite:gpslongitude", "gpslon"),
        *("gpslng", "gpslong", "decimallongitude"),
        *("exif:gpslongitude", "gps:gpslongitude", "xmp:gpslongitude", "predictedlongitude"),
    ),
    "latitude_ref": (
        *("latituderef", "gpslatituderef", "exif:gpslatituderef", "gps:gpslatituderef"),
    ),
    "longitude_ref": (
        *("longituderef", "gpslongituderef", "exif:gpslongituderef", "gps:gpslongituderef"),
    ),
}
"""Other names of a column, by `_plain`."""
NAMES_AS_IDS = {**ALIASES, "id": (*ALIASES["id"], *ALIASES["file"])}
"""For tables whose ids may be file names."""
_UNSIGNED = re.compile(r"(exif|gps):gps(latitude|longitude)")
"""Columns whose sign exiftool writes into another one, which must be there too."""

MISSING_TEXT = ("", "nan", "NaN", "<NA>")  # not "NA" (Namibia), not "None" (a town in Piedmont)
MISSING_NUMBER = (
    *(*MISSING_TEXT, "NA", "N/A", "n/a", "None", "none", "null", "NULL"),
    *("#N/A", "-"),  # of Excel, and of exiftool -f
)

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_MAX_ABOVE = 10  # lines above the header: a title, remarks
_MAX_WIDER = 20  # empty cells at the end of a row that the header does not have
_START = 2**16  # bytes in which the header must lie
_FORMULA = re.compile(r"(^|[;\t\r\n|])('*(?:[=+\-@\t\r＝＋－＠]))")
_MARKED = re.compile(r"(^|[;\t\r\n|])'('*(?:[=+\-@\t\r＝＋－＠]))")
_QUOTED_NUMBER = re.compile(r"'+\d[\d.,eE+-]*")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


# Reading ------------------------------------------------------------------------------------------


def read_csv(
    source: Path | bytes,
    columns: Sequence[str] | None = None,
    required: Sequence[str] = (),
    *,
    name: str | None = None,
    errors: str = "strict",
    aliases: Mapping[str, tuple[str, ...]] = ALIASES,
) -> pd.DataFrame:
    """Read a CSV as text, missing values as "".

    Its index counts the rows as written, from 0; rows without any value are left out.

    Args:
        source: The file, or its content.
        columns: The columns to return if the file has them; None for all.
        required: Columns that the file must have.
        name: What to call the file in errors; by default its path.
        errors: What to do with bytes that are not UTF-8: "strict", or "surrogateescape" to keep
            them as file names have them.
        aliases: Other names of columns, as `ALIASES`.

    Raises:
        DatasetError: the file is missing, too large, empty, not a CSV, ragged, or lacks a required
            column.
    """
    label = name or ("the CSV" if isinstance(source, bytes) else str(source))
    if isinstance(source, bytes):
        if len(source) > MAX_CSV_BYTES:
            raise DatasetError(f"{label}: larger than {MAX_CSV_BYTES // 10**6} MB")
        return _read_stream(io.BytesIO(source), label, columns, required, errors, aliases)
    try:
        with open_file(source, MAX_CSV_BYTES) as stream:
            return _read_stream(stream, label, columns, required, errors, aliases)
    except FileError as error:
        reason = error.reason.replace("does not exist", "no such file")
        raise DatasetError(f"{label}: {reason}") from error


def _read_stream(
    stream: IO[bytes],
    label: str,
    columns: Sequence[str] | None,
    required: Sequence[str],
    errors: str,
    aliases: Mapping[str, tuple[str, ...]],
) -> pd.DataFrame:
    start = stream.read(_START)
    encoding = _encoding(start, label)
    text = start.decode(encoding, "replace")
    if encoding == "utf-16" and "\ufffd" in text and len(start) < _START:
        raise DatasetError(f"{label}: not UTF-16 text; save it again as CSV UTF-8")
    if text.count("\0") > len(text) // 100:
        raise DatasetError(f"{label}: not a text file; save the table as CSV UTF-8")
    wanted = [*required, *(columns or ())]
    lines, header, separator = _header(text, required, wanted, aliases, label)
    names = renamed(header, wanted, aliases)
    _check_header(label, header, names, required, separator)
    kept = [column for column in names if columns is None or column in columns]
    stream.seek(0)
    frame = None
    if encoding == "utf-8-sig" and errors == "strict":
        content = stream.read(MAX_CSV_BYTES)
        frame = _plain_table(content, lines, separator, names, kept)
        stream = io.BytesIO(content)
    if frame is None:
        # "a", "b": the spaces would make the quotes part of the values.
        spaced = re.search(rf'{re.escape(separator)} +"', text) is not None
        layout = _Layout(lines, separator, spaced)
        frame = _any_table(stream, label, layout, names, encoding, errors)
        blank = np.ones(len(frame), dtype=bool)
        for column in names:
            blank[blank] = frame.loc[blank, column].str.strip().eq("").to_numpy(dtype=bool)
        frame = frame.loc[~blank, kept]
    for column in kept:
        marked = frame[column].str.contains("'", regex=False)
        if marked.any():
            cleaned = frame[column].copy()
            cleaned[marked] = frame.loc[marked, column].map(without_mark)
            frame[column] = cleaned
    return frame


def _plain_table(
    content: bytes, lines: int, separator: str, names: Sequence[str], kept: Sequence[str]
) -> pd.DataFrame | None:
    """Return some columns of a large CSV as text, several times as fast as pandas.

    None if the table is small, or if the two parsers might differ on it: it has blank or ragged
    rows, a quote that does not enclose a value, or bytes that are not UTF-8.
    """
    if len(content) < LARGE_BYTES:
        return None
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        return None
    quoted = b'"' in content
    if b"\0" in content or (quoted and not _quotes_enclose(content, separator)):
        return None
    if quoted and b'"' in b"".join(content.split(b"\n", lines + 1)[: lines + 1]):
        return None
    # imported here, because small tables do not need it
    from pyarrow import ArrowInvalid, BufferReader, csv, large_string

    try:
        table = csv.read_csv(
            BufferReader(content),
            csv.ReadOptions(skip_rows=lines + 1, column_names=list(names)),
            csv.ParseOptions(
                delimiter=separator, newlines_in_values=quoted, ignore_empty_lines=False
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, large_string()),
                include_columns=list(kept),
                strings_can_be_null=False,
                null_values=[],
            ),
        )
    except ArrowInvalid:
        return None  # the message is that of the other parser
    mapping = {large_string(): pd.StringDtype(na_value=np.nan)}
    frame: pd.DataFrame = table.combine_chunks().to_pandas(types_mapper=mapping.get)
    blank = np.ones(len(frame), dtype=bool)
    for column in kept:
        blank[blank] = frame.loc[blank, column].str.strip().eq("").to_numpy(dtype=bool)
    return None if blank.any() else frame


def _quotes_enclose(content: bytes, separator: str) -> bool:
    """Return whether every quote begins or ends a value, or is doubled inside one."""
    ends = rb"[^\r\n%b]" % re.escape(separator.encode())
    enclosed = rb'"(?<!%b")[^"]*(?:""[^"]*)*"(?!%b)' % (ends, ends)
    return b'"' not in re.sub(enclosed, b"", content)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a CSV is written."""

    lines: int  # above the header
    separator: str
    spaced: bool  # whether spaces follow separators

    def read(self, stream: IO[bytes], encoding: str, errors: str, width: int = 0) -> pd.DataFrame:
        """Read a table as text, without its header if a `width` in columns is given."""
        # Without usecols, because with it pandas accepts rows that have too many fields.
        return pd.read_csv(
            io.BufferedReader(_Limited(stream)),
            sep=self.separator,
            dtype="str" if errors == "strict" else object,  # "str" holds Unicode only
            na_filter=False,
            encoding=encoding,
            encoding_errors=errors,
            skiprows=self.lines + bool(width),
            skip_blank_lines=False,
            skipinitialspace=self.spaced,
            header=None if width else "infer",
            names=range(width) if width else None,
        )


def _any_table(
    stream: IO[bytes],
    label: str,
    layout: _Layout,
    names: Sequence[str],
    encoding: str,
    errors: str,
) -> pd.DataFrame:
    ragged = ""
    try:
        frame = layout.read(stream, encoding, errors)
        if not isinstance(frame.index, pd.RangeIndex):
            ragged = "its rows have more fields than its header"
    except pd.errors.EmptyDataError as error:
        raise DatasetError(f"{label}: the file has no header row") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{label}: not UTF-8 (byte 0x{error.object[error.start]:02x}); "
            "save it again as CSV UTF-8"
        ) from error
    except UnicodeError as error:
        raise DatasetError(f"{label}: not UTF-16 text; save it again as CSV UTF-8") from error
    except pd.errors.ParserError as error:
        ragged = str(error).strip()
    if ragged:
        wider = _wider_table(stream, layout, len(names), encoding, errors)
        if wider is None:
            raise DatasetError(
                f"{label}: not a table: {ragged}; a text with a comma needs quotes around it, and "
                "numbers with a decimal comma need semicolons between the columns"
            )
        frame = wider
    frame.columns = pd.Index(names)
    filled: pd.DataFrame = frame.fillna("")
    return filled


def _wider_table(
    stream: IO[bytes], layout: _Layout, width: int, encoding: str, errors: str
) -> pd.DataFrame | None:
    """Read a table whose rows are longer than its header, where it is clear what is too much.

    The cells after the header's are empty, or the first of each row is its number, which R writes
    without a header.
    """
    stream.seek(0)
    try:
        frame = layout.read(stream, encoding, errors, width + _MAX_WIDER).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return None
    used = [at for at in range(frame.shape[1]) if frame[at].str.strip().ne("").any()]
    if not used or used[-1] < width:
        return frame.iloc[:, :width]
    numbers = frame[0].where(frame[0].str.fullmatch(r"\d{1,9}"), "0").astype(int)
    if used[-1] == width and (numbers == np.arange(1, len(frame) + 1)).all():
        return frame.iloc[:, 1 : width + 1]
    return None


class _Limited(io.RawIOBase):
    """A stream that ends after `MAX_CSV_BYTES`, for a file that grows while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MAX_CSV_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        return len(content)


def _encoding(start: bytes, label: str) -> str:
    """Return the encoding of a file; refuse files of other kinds, by their first bytes."""
    if not start:
        raise DatasetError(f"{label}: the file is empty; copy or download it again")
    for magic, kind in (
        (b"PK", "this is a ZIP archive or a spreadsheet, not a CSV"),
        (b"\xd0\xcf\x11\xe0", "this is a spreadsheet, not a CSV; save it as CSV UTF-8"),
        (b"\x1f\x8b", "this is a gzip archive, not a CSV; unpack it"),
        (b"PAR1", "this is a Parquet file, not a CSV; write it as CSV"),
    ):
        if start.startswith(magic):
            raise DatasetError(f"{label}: {kind}")
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _first_lines(lines: Sequence[str]) -> tuple[int, str | None]:
    """Return the number of lines before the first table, and the separator that one names."""
    separator = None
    for number, line in enumerate(lines):
        line = line.strip("\ufeff\r\n ")
        if match := re.fullmatch(r"[\"']?sep=(.)[\"']?", line, re.IGNORECASE):
            separator = match[1]
        elif line:
            return number, separator
    return 0, separator


def _header(
    text: str,
    required: Sequence[str],
    wanted: Sequence[str],
    aliases: Mapping[str, tuple[str, ...]],
    label: str,
) -> tuple[int, list[str], str]:
    """Return the number of lines above the header of a table, its columns and its separator.

    The separator is the one that gives most of the `required` columns. Lines above a header with
    all of them are passed over; if there is none, the first line is the header.
    """
    rows = list(io.StringIO(text.lstrip("\ufeff"), newline=None))
    above, separator = _first_lines(rows)
    first: tuple[int, list[str], str] | None = None
    for start in range(above, min(above + _MAX_ABOVE, len(rows)) if required else above + 1):
        best: tuple[int, int, list[str], str] | None = None
        for candidate in [separator] if separator else _SEPARATORS:
            try:
                header = next(csv.reader(rows[start:], delimiter=candidate), [])
            except csv.Error:
                continue
            found = sum(column in renamed(header, wanted, aliases) for column in required)
            if best is None or (found, len(header)) > best[:2]:
                best = found, len(header), header, candidate
        if best is not None and (first is None or best[0] == len(required)):
            first = (start, *best[2:])
            if best[0] == len(required):
                break
    if first is None or not any(name.strip() for name in first[1]):
        raise DatasetError(f"{label}: the file has no header row")
    if len(first[1]) > MAX_COLUMNS:
        raise DatasetError(f"{label}: has more than {MAX_COLUMNS:,} columns")
    return first


def renamed(
    header: Sequence[str], wanted: Iterable[str], aliases: Mapping[str, tuple[str, ...]] = ALIASES
) -> list[str]:
    """Return the columns of a header by the names that are wanted, as far as they are clear.

    A wanted name itself comes first, then its `aliases` in their order, each as `_plain`.
    """
    names = [name.strip() for name in header]
    plain = [_plain(name) for name in names]
    wanted = dict.fromkeys(wanted)
    for column in wanted:
        if column in names:
            continue
        for alias in (_plain(column), *aliases.get(column, ())):
            if _UNSIGNED.fullmatch(alias) and not (
                f"{alias}ref" in plain and f"{column}_ref" in wanted
            ):
                continue
            places = [at for at, name in enumerate(plain) if name == alias]
            if len(places) == 1 and names[places[0]] not in wanted:
                names[places[0]] = column
                break
    # A second column of a name gets a number, as pandas does.
    seen: dict[str, int] = {}
    for at, name in enumerate(names):
        seen[name] = seen.get(name, -1) + 1
        names[at] = f"{name}.{seen[name]}" if seen[name] else name
    return names


def _plain(name: str) -> str:
    """Return the name of a column without case, unit, spaces, underscores, hyphens and dots."""
    return re.sub(r"\([^)]*\)|\[[^]]*\]|[\s_.°-]", "", name).lower()


def _check_header(
    label: str, header: list[str], names: list[str], required: Sequence[str], separator: str
) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        shown = separator.join(header)[:300].replace("\t", " ")
        raise DatasetError(
            f"{label}: no column {', '.join(map(repr, missing))} in the header {shown!r}, which is "
            f"separated by {_SEPARATORS.get(separator, repr(separator))}"
        )


# Writing ------------------------------------------------------------------------------------------


def without_formula(value: object) -> object:
    """Return a cell that a spreadsheet shows as text, not as a formula; numbers are unchanged.

    An apostrophe is put before what could start a formula: at the beginning, and after characters
    that separate cells in other countries.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    if _QUOTED_NUMBER.fullmatch(value):
        return f"'{value}"
    return _FORMULA.sub(r"\1'\2", value)


def without_mark(value: str) -> str:
    """Return what `without_formula` was given, and text that a spreadsheet marked with "'"."""
    if _QUOTED_NUMBER.fullmatch(value):
        return value[1:]
    return _MARKED.sub(r"\1\2", value)


def csv_line(cells: Iterable[object]) -> str:
    """Return a line of a CSV with its end, its cells `without_formula` and `escaped`."""
    line = io.StringIO()
    # With "\n" alone, the writer would not quote cells with "\r".
    csv.writer(line, lineterminator="\r\n").writerow(without_formula(cell) for cell in cells)
    return escaped(line.getvalue())[:-2] + "\n"


def csv_text(frame: pd.DataFrame) -> str:
    """Return a table as CSV of `csv_line`; missing values are empty."""
    cells = frame.astype(object).where(frame.notna(), "")
    rows = cells.itertuples(index=False, name=None)
    return csv_line(map(str, frame.columns)) + "".join(map(csv_line, rows))


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as `csv_text`, in UTF-8."""
    path.write_text(csv_text(frame), encoding="utf-8", newline="")


# Checking values ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Problem:
    """Rows of one file whose value in one column cannot be used."""

    file: str  # name of the CSV
    column: str  # by its name in the file
    rows: np.ndarray  # (k,) positions in the table, from 0
    values: tuple[str, ...]  # the k values as written, cut to 60 characters
    reason: str  # follows the value in a sentence: what is wrong, and what would be right
    row: int = 0  # number of the first row, as spreadsheets count

    def sentence(self) -> str:
        """Return one line that names file, column, first row (as spreadsheets count) and value."""
        more = f" ({len(self.rows):,} such rows)" if len(self.rows) > 1 else ""
        return (
            f"{self.file}: column {self.column!r}, row {self.row}: "
            f"{self.values[0]!r} {self.reason}{more}"
        )


class Problems:
    """Collects the problems of one CSV, (n,) rows of text from `read_csv`, while it is parsed."""

    def __init__(self, frame: pd.DataFrame, file: str) -> None:
        self.frame, self.file = frame, file
        self.found: list[Problem] = []

    def add(self, column: str, wrong: np.ndarray, reason: str) -> None:
        """Add the rows under a mask (n,), if there are any."""
        rows = np.flatnonzero(wrong)
        if len(rows):
            values = tuple(str(value)[:60] for value in self.frame[column].iloc[rows])
            first = int(self.frame.index[rows[0]]) + 2
            self.found.append(Problem(self.file, column, rows, values, reason, first))

    def degrees(self, column: str, limit: int, *, required: bool) -> np.ndarray:
        """Return a column (n,) in degrees, NaN where it is missing or wrong."""
        number, wrong = parse_numbers(self.frame[column])
        reference = f"{column}_ref"
        letters = self.frame.get(reference)
        for row in range(len(number)) if letters is not None else np.flatnonzero(wrong):
            # Angles in words, decimal commas, hemispheres in a column of their own.
            letter = str(letters.iloc[row]).strip()[:1].upper() if letters is not None else ""
            text = str(self.frame[column].iloc[row])
            parsed = parse_degrees(text, column, letter)
            if parsed is not None:
                number[row], wrong[row] = parsed, False
            elif letter and not np.isnan(number[row]):
                wrong[row] = True
        self.add(column, wrong, "is not a number; degrees are written like -97.7431")
        if required:
            missing = np.isnan(number) & ~wrong
            self.add(column, missing, "is not a coordinate; every photo needs one")
        outside = np.abs(number) > limit
        self.add(column, outside, f"is outside -{limit} to {limit} degrees")
        return np.where(outside, np.nan, number)

    def milliseconds(self, number: np.ndarray) -> np.ndarray:
        """Return the times (n,) of captured_at, NaN where the unit cannot be milliseconds."""
        # Accepts 1824 to 1969 and 1971 to 2099: seconds would fall into 1970, microseconds later.
        outside = (number < -4.6e12) | ((number >= 0) & (number < 31.6e9)) | (number >= 4.1e12)
        reason = "is not milliseconds since 1970; is it seconds or microseconds?"
        self.add("captured_at", outside, reason)
        return np.where(outside, np.nan, number)

    def raise_first(self, advice: str) -> None:
        """Raise the first problem, if there is any.

        Raises:
            DatasetError: there is a problem. The message ends with `advice`: what to do.
        """
        if self.found:
            others = len(self.found) - 1
            more = f" {others} more kinds of problems follow." if others else ""
            raise DatasetError(f"{self.found[0].sentence()}.{more} {advice}.")


def parse_numbers(text: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers (n,) in text (n,), NaN where missing or wrong, and a mask (n,) of wrong.

    A decimal comma is read. Infinite numbers are wrong.
    """
    plain = _plain_numbers(text)
    if plain is not None:
        return plain, np.zeros(len(plain), dtype=bool)
    number = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isnan(number)
    if wrong.any():
        rest = text[wrong].str.strip()
        commas = rest.str.fullmatch(_DECIMAL_COMMA)
        if commas.any():
            rest = rest.where(~commas, rest.str.replace(",", "."))
            values = pd.to_numeric(rest, errors="coerce")
            number = number.copy()
            number[wrong] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        wrong[wrong] = (~rest.isin(MISSING_NUMBER)).to_numpy(dtype=bool) & np.isnan(number[wrong])
    infinite = np.isinf(number)
    return np.where(infinite, np.nan, number), wrong | infinite


def _plain_numbers(text: pd.Series) -> np.ndarray | None:
    """Return text (n,) as numbers, "" as NaN, or None if any is not plainly a finite number."""
    if text.dtype != "str":
        return None
    import pyarrow as pa  # imported here, because small tables do not need it
    from pyarrow import compute

    values = pa.array(text, pa.large_string())
    values = compute.if_else(compute.equal(values, ""), None, values)
    try:
        numbers = compute.cast(values, pa.float64())
    except pa.ArrowInvalid:
        return None
    plain: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    given = numbers.is_valid().to_numpy(zero_copy_only=False)
    return plain.astype(np.float64) if np.isfinite(plain[given]).all() else None


def whole_ids(ids: "pd.Series[str]") -> "pd.Series[str]":
    """Return ids as they were before a spreadsheet took them for numbers, where that is certain.

    "1234567890123456.0", "1.234567890123456E+15" and "1,234567890123456E+15" are
    "1234567890123456". What was rounded is left as it is.
    """
    suspects = ids.str.contains(r"[.,eE \t\r\n]", regex=True)
    if not suspects.any():
        return ids
    suspects &= ids.str.fullmatch(r"\s*\d+([.,]\d+)?([eE]\+?\d+)?\s*")
    if not suspects.any():
        return ids
    every = bool(ids[ids.str.strip() != ""].str.fullmatch(r"\d+[.,]0+").all())

    def whole(text: str) -> str:
        plain = text.strip().replace(",", ".").lower()
        digits, _, power = plain.partition("e")
        units, _, decimals = digits.partition(".")
        if power:
            shift, decimals = int(power[:4]), decimals.rstrip("0")
            # Fewer digits than the number has places: the others were rounded away.
            return units + decimals if 0 < shift <= 18 and len(decimals) == shift else text
        is_exact = len(units) < 16 or int(units) < 2**53
        if decimals and not decimals.strip("0") and is_exact and (every or len(units) >= 6):
            return units
        return text.strip() if not decimals else text

    return ids.where(~suspects, ids.map(whole))
