"""How files are read: their encoding, their lines, and what separates the columns of a table."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

from cl_mlm.data.file_faults import FileFaults

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

Missing = Literal["error", "drop"]
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
TABLES = (".csv", ".tsv", ".txt")
SEPARATORS = (",", ";", "\t", "|")
EXPECTED_SEPARATOR = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
ESCAPED = re.compile("[\udc80-\udcff]")  # how Python hands over bytes that are not of the encoding
EXCEL_HINT = re.compile(r"sep=(.)")  # a first line that Excel writes and reads: it names the separator, and is no row
SAMPLE_LINES, SAMPLE_CHARACTERS = 50, 1 << 18  # from which the separator is told
HEAD_BYTES = 4096
SHOWN_CHARACTERS = 80
UNREADABLE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "is a spreadsheet: export it as CSV"),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst"), "is packed: unpack it first"),
    ".arrow": "is a part of a data set: give the folder that save_to_disk has written",
}


@dataclass(frozen=True)
class Reading:
    """How files are read, whatever their format.

    Attributes:
        columns: our name of a column to its name in the file, such as `{"text": "sentence"}`.
        delimiter: what separates the columns of a table; None: it is told from the first lines.
        encoding: of text files, by Python's name; None: UTF-8.
        missing: `error` refuses rows that lack a value, `drop` leaves them out.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None
    missing: Missing = "error"

    def faults(self, where: str = "stream") -> list[str]:
        """Returns a fault for every setting that nothing can be read with; each begins with `where`."""
        problems = []
        if self.delimiter is not None and not _can_separate(separator_of(self.delimiter)):
            allowed = "one character, such as ';', '|' or '\\t', no quotation mark"
            problems.append(f"{where}.delimiter: must be {allowed}, got {self.delimiter!r}")
        if self.encoding is not None and not _is_encoding(self.encoding):
            allowed = "a text encoding that Python knows, such as utf-8, utf-16, cp1252 or latin-1"
            problems.append(f"{where}.encoding: must be {allowed}, got {self.encoding!r}")
        if self.missing not in get_args(Missing):
            problems.append(f"{where}.missing: must be error or drop, got {self.missing!r}")
        return problems

    def address(self) -> tuple[Any, ...]:
        """Returns what the table that is read depends on."""
        return (sorted(self.columns.items()), self.delimiter, self.encoding, self.missing)


def separator_of(delimiter: str) -> str:
    """Returns the character that is meant: a tab also by its name, or as a backslash and a t."""
    return "\t" if delimiter in ("\\t", "tab") else delimiter


def _can_separate(character: str) -> bool:
    return len(character) == 1 and character not in '"\r\n\0'


def _is_encoding(name: str) -> bool:
    try:  # refuses what is no encoding of text, too, such as `hex`
        io.TextIOWrapper(io.BytesIO(), encoding=name).read()
    except (LookupError, ValueError):
        return False
    return True


def text_lines(path: Path, encoding: str | None, faults: FileFaults) -> Iterator[tuple[int, str]]:
    """Yields number and text of every line; one ends in LF, CR LF or CR, which stay in the text.

    Args:
        path: of a text file.
        encoding: of the file; None: UTF-8. A byte order mark is left out.
        faults: gets lines with bytes of another encoding or with NUL bytes.
    """
    other = unlike_text(path, encoding)
    if other:
        faults.add(None, other)
        return
    number = 0
    try:
        with path.open(encoding=encoding or "utf-8", errors="surrogateescape", newline="") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix("\ufeff") if number == 1 else line
                yield number, sound_text(number, text, encoding, faults)
    except UnicodeError as error:  # an encoding of more than one byte a character
        faults.add(number + 1, f"not {encoding}", f": {error}")


def sound_text(number: int, text: str, encoding: str | None, faults: FileFaults) -> str:
    """Returns the text of a line, with U+FFFD for bytes that are told as faults."""
    if not text.isascii() and (bad := ESCAPED.search(text)):
        name = encoding or "UTF-8"
        before = text[: bad.start()].encode(encoding or "utf-8", "surrogateescape")
        near = ESCAPED.sub("\ufffd", text[max(0, bad.start() - 20) : bad.start() + 10].strip())
        remedy = "" if encoding else "for a file of Windows or Latin-1: encoding: cp1252 or latin-1"
        byte = f"byte 0x{ord(bad[0]) - 0xDC00:02x} at position {len(before) + 1}"
        faults.add(number, f"not {name}", f": {byte}, in {near!r}", remedy=remedy, together=True)
        text = ESCAPED.sub("\ufffd", text)
    if "\0" in text:
        faults.add(number, "must hold no NUL byte", f", got one at position {text.index(chr(0)) + 1}")
        text = text.replace("\0", "\ufffd")
    return text


def unlike_text(path: Path, encoding: str | None) -> str:
    """Returns why a file's first bytes are no text of the encoding, and what to do; empty where they may be."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"PAR1")):
        return "is a zip, Excel, gzip or Parquet file under the name of a text file: export or unpack it"
    name = codecs.lookup(encoding or "utf-8").name
    is_wide = name.startswith(("utf-16", "utf-32"))
    wide = _wide_encoding(head)
    if wide and not is_wide:
        return f"is not {encoding or 'UTF-8'} but {wide[:6].upper()}: set encoding: {wide}"
    if name == "utf-16" and wide == "utf-16-be":  # without a byte order mark Python would take it for the other order
        return "has its bytes in the order of utf-16-be: set encoding: utf-16-be"
    if is_wide and not wide and b"\0" not in head and head:
        return f"is not {encoding}: it has no zero bytes; leave encoding out, or name another"
    if head.startswith(codecs.BOM_UTF8) and name not in ("utf-8", "utf-8-sig"):
        return f"is UTF-8, as its byte order mark says: leave encoding out, got {encoding}"
    return ""


def _wide_encoding(head: bytes) -> str:
    """Returns the encoding of two or four bytes a character that the first bytes are of; empty: none."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    half = len(head) // 2
    zeros = head[0::2].count(0), head[1::2].count(0)  # in mostly Latin text every second byte is zero
    if half and max(zeros) > half / 3 and max(zeros) > 4 * min(zeros):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return ""


def first_line(path: Path, encoding: str | None) -> str:
    """Returns the start of the first line that is not blank."""
    lines = (line.strip("\r\n") for _, line in text_lines(path, encoding, FileFaults(path)))
    found = next((line for line in lines if line.strip()), "")
    return found if len(found) <= SHOWN_CHARACTERS else f"{found[: SHOWN_CHARACTERS - 3]}..."


def find_separator(path: Path, reading: Reading, wanted: Sequence[Collection[str]]) -> str | None:
    """Returns the character between the columns of a table; None: the first lines do not tell.

    It is the given one; else the one that a first line `sep=;` names; else one under which the header has the wanted
    columns, the usual one of the format first; else one that gives every one of the first rows the same number of
    columns, more than one.

    Args:
        path: of the table.
        reading: how it is read.
        wanted: sets of columns of the file, one of which it should have.
    """
    if reading.delimiter is not None:
        return separator_of(reading.delimiter)
    lines, size = [], 0
    for _, line in islice(text_lines(path, reading.encoding, FileFaults(path)), SAMPLE_LINES):
        lines.append(line)
        size += len(line)
        if size > SAMPLE_CHARACTERS:
            break
    named = EXCEL_HINT.fullmatch(lines[0].strip("\r\n")) if lines else None
    if named:
        return named[1]
    expected = EXPECTED_SEPARATOR[path.suffix.lower()]
    samples = {
        character: rows
        for character in dict.fromkeys((expected, *SEPARATORS))
        if (rows := _sample(lines, character, is_cut=len(lines) == SAMPLE_LINES or size > SAMPLE_CHARACTERS))
    }
    are_even = {c: all(len(row) == len(rows[0]) for row in rows) for c, rows in samples.items()}
    headers = {c: {name.strip() for name in rows[0]} for c, rows in samples.items()}
    holding = [c for c, names in headers.items() if any(names >= {*columns} for columns in wanted)]
    if holding:
        # `text` alone is the header of a table with one column, whatever separates columns.
        return expected if expected in holding else next((c for c in holding if are_even[c]), holding[0])
    even = [c for c, rows in samples.items() if are_even[c] and len(rows[0]) > 1]
    if expected in even:
        return expected
    return max(even, key=lambda c: len(samples[c][0])) if even else None


def _sample(lines: Sequence[str], separator: str, is_cut: bool) -> list[list[str]]:
    """Returns the first rows under a separator, up to one that cannot be read."""
    rows = []
    try:
        for row in csv.reader(lines, delimiter=separator, strict=True):
            if row:
                rows.append(row)  # noqa: PERF401 - the rows before the faulty one count
    except csv.Error:
        is_cut = False
    return rows[:-1] if is_cut and len(rows) > 1 else rows
