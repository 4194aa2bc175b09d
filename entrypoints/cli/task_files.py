"""Task files: JSON lines, a JSON array or one JSON object, checked here and cut into requests the server takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import msgspec
import orjson
from msgspec import Struct

from entrypoints.cli.failures import BadInput

CHUNK_MAX_LINES = 500
CHUNK_MAX_BYTES = 512 * 1024
LINE_MAX_BYTES = 1024 * 1024 - 1024
FILE_MAX_BYTES = 256 * 1024 * 1024
COMPLAINTS_MAX = 20


class Line(Struct, frozen=True):
    """A task as it will be sent, and the line (or the item of an array) where it stands, from 1."""

    number: int
    data: bytes


class BadLine(Struct, frozen=True):
    """A line that is no task, and why."""

    number: int
    why: str


def read_tasks(file: BinaryIO) -> list[Line]:
    """All tasks of a file, or BadInput that names each line that is none: nothing of such a file is sent."""
    lines: list[Line] = []
    bad: list[BadLine] = []
    size = 0
    for item in parse(file):
        if isinstance(item, BadLine):
            bad.append(item)
            if len(bad) == COMPLAINTS_MAX:
                break
            continue
        lines.append(item)
        size += len(item.data)
        if size > FILE_MAX_BYTES:
            raise BadInput(
                f"The tasks are larger than {FILE_MAX_BYTES // 2**20} MiB, which is too much to check before sending.",
                remedy="Add --keep-going to send while reading, or cut the file.",
            )
    if bad:
        complaints = "\n".join(f"line {line.number}: {line.why}" for line in bad)
        more = " or more" if len(bad) == COMPLAINTS_MAX else ""
        raise BadInput(
            f"Nothing was sent, because {len(bad)}{more} line(s) are no task:\n{complaints}",
            remedy="Each line is a JSON object with type and parameters. --keep-going sends the good lines.",
        )
    if not lines:
        raise BadInput("The file holds no task.", remedy="Write one JSON object a line.")
    return lines


def good_lines(file: BinaryIO, complain: Callable[[BadLine], None]) -> Iterator[Line]:
    """The tasks of a file as they are read; what is none is complained about and left out."""
    for item in parse(file):
        if isinstance(item, BadLine):
            complain(item)
        else:
            yield item


def parse(file: BinaryIO) -> Iterator[Line | BadLine]:
    """Each line in order. A file that begins with `[`, or whose first line is only a part of an object, is one
    document, read at once.
    """
    number = 0
    while raw := file.readline(LINE_MAX_BYTES + 1):
        number += 1
        text = raw.strip()
        if not text:
            continue
        if text[:1] == b"[" or (text[:1] == b"{" and not _is_json(text)):
            rest = file.read(FILE_MAX_BYTES + 1)
            if len(rest) > FILE_MAX_BYTES:
                raise BadInput(
                    f"The document is larger than {FILE_MAX_BYTES // 2**20} MiB.", remedy="Write one task a line."
                )
            document = _document(raw + rest)
            if document is not None:
                yield from document
                return
            yield from _lines(iter((raw + rest).splitlines()), number)
            return
        yield _line(number, text)
        yield from _lines(_read(file), number + 1)
        return


def chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines in requests of at most 500 lines and 512 KiB; a larger line goes alone."""
    chunk: list[Line] = []
    size = 0
    for line in lines:
        if chunk and (len(chunk) == CHUNK_MAX_LINES or size + len(line.data) + 1 > CHUNK_MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line.data) + 1
    if chunk:
        yield chunk


def _read(file: BinaryIO) -> Iterator[bytes]:
    """Lines of bounded length: the rest of a longer one is read over, so that the next number is right."""
    while raw := file.readline(LINE_MAX_BYTES + 1):
        yield raw
        while len(raw) > LINE_MAX_BYTES and not raw.endswith(b"\n"):
            raw = file.readline(LINE_MAX_BYTES + 1)


def _lines(raws: Iterator[bytes], first: int) -> Iterator[Line | BadLine]:
    for number, raw in enumerate(raws, first):
        text = raw.strip()
        if text:
            yield _line(number, text)


def _line(number: int, text: bytes) -> Line | BadLine:
    if len(text) > LINE_MAX_BYTES:
        return BadLine(number, f"it is longer than {LINE_MAX_BYTES} bytes; store large values as blobs.")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return BadLine(number, f"it is no JSON: {error}.")
    if not isinstance(value, dict):
        return BadLine(number, "it is JSON, but no object.")
    return Line(number, text)


def _document(data: bytes) -> list[Line | BadLine] | None:
    """The items of an array, or one object over several lines; None if the data is neither.

    The items are cut out, not parsed and written again: numbers arrive as they were written.
    """
    is_array = data.lstrip()[:1] == b"["
    try:
        items = msgspec.json.decode(data, type=list[msgspec.Raw]) if is_array else [msgspec.Raw(data)]
        return [_line(number, msgspec.json.format(bytes(item), indent=-1)) for number, item in enumerate(items, 1)]
    except msgspec.DecodeError as error:
        return [BadLine(1, f"the array is no JSON: {error}.")] if is_array else None


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
