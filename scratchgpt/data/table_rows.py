"""The rows of CSV, TSV and Parquet."""

import csv
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from scratchgpt.data import plain
from scratchgpt.data.plain import ADVICE, PLAIN, lines, text_of
from scratchgpt.data.unpacking import Contents, Place, extra, failures_named
from scratchgpt.errors import DataError

ROWS = 256
"""Rows of Parquet read at once."""

MOST_NAMES = 20
"""Fields that a message names."""

DELIMITERS = ",\t;|"
"""Between the fields of a table; the one that the header has counts."""

HEADER_LINES = 16
"""Lines in which the header of a table must end: blank lines may come first, and names may have line ends."""


def table_rows(contents: Contents, place: Place, field: str, errors: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row after the header, and its text. Raises DataError."""
    rest = lines(text_of(contents, errors, advice=ADVICE), "", place)
    head = list(itertools.islice(rest, HEADER_LINES))
    headers = {each: next(_records(head, each, place), []) for each in DELIMITERS}
    delimiter = next((each for each, names in headers.items() if field in names), None)
    if delimiter is None:
        if names := max(headers.values(), key=len):
            raise DataError(
                f"{place} has no column {field!r}, only {listed(names)}.",
                advice=f"Name one with --field. {PLAIN}",
                page=f"Name the column of the text so. {PLAIN}",
            )
        return
    rows = _records(itertools.chain(head, rest), delimiter, place, strict=True)
    header = next(rows)
    column = header.index(field)
    for number, row in enumerate(rows, 1):
        if len(row) > len(header):
            raise DataError(
                f"Row {number:,} of {place} has {len(row):,} fields, and the header {len(header):,}. Put quotation "
                "marks around fields that have delimiters."
            )
        yield number, {field: row[column]} if column < len(row) else {}


def _records(lines: Iterable[str], delimiter: str, place: Place, *, strict: bool = False) -> Iterator[list[str]]:
    """Yield the fields of the header and of each row of a table that is not blank. Raises DataError."""
    csv.field_size_limit(plain.LONGEST_ROW)
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    number = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            what = f"Row {number:,}" if number else "The header"
            raise DataError(
                f"{what} of {place}, which ends in line {reader.line_num:,}, cannot be read: {error}. Put "
                "quotation marks around fields that have quotation marks, and double those inside."
            ) from error
        if row is None:
            return
        if row:
            yield row
            number += 1


def parquet_rows(place: Place, field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the text of each row of a Parquet file. Raises DataError and UsageError."""
    parquet = extra("pyarrow.parquet", "parquet", place)
    damage = (ValueError, extra("pyarrow", "parquet", place).ArrowException)
    number = 0
    with failures_named(place, damage), parquet.ParquetFile(place.path) as file:
        names = file.schema_arrow.names
        if field not in names:
            raise DataError(
                f"{place} has no column {field!r}, only {listed(names)}.",
                advice="Name one with --field.",
                page="Name the column of the text so.",
            )
        for batch in file.iter_batches(batch_size=ROWS, columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield number, {field: text}


def listed(names: Iterable[str]) -> str:
    """Return names for a message."""
    shown = [f"{name:.40}" if name.isprintable() else repr(name[:40]) for name in names]
    return ", ".join(shown[:MOST_NAMES]) + (", ..." if len(shown) > MOST_NAMES else "")
