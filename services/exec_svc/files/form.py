"""Taking a multipart/form-data upload apart as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from sandbox_rpc.errors import InvalidParameter

from exec_svc.files.limits import MAX_FILE_BYTES
from exec_svc.files.paths import MAX_PATH_BYTES, checked

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# What may come around the file: headers, the path, fields that nobody asked for.
_MAX_OTHER_BYTES = 64 * 1024
_MAX_PARTS = 16
_MAX_BOUNDARY_CHARACTERS = 70  # RFC 2046, 5.1.1


class Form:
    """`file` goes to `sink` piece by piece, `path` is kept, other fields are ignored.

    Everything raises InvalidParameter, naming the field. Blocks as `sink` does.
    """

    def __init__(
        self,
        content_type: str,
        sink: Callable[[memoryview], None],
        aim: Callable[[str], None],
    ) -> None:
        """`aim` is told the path as soon as it is known: it may raise before the file comes."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= _MAX_BOUNDARY_CHARACTERS:
            raise InvalidParameter(
                "Header 'content-type' must be multipart/form-data with a boundary "
                f"of 1 to {_MAX_BOUNDARY_CHARACTERS} characters"
            )
        callbacks = {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._data_begins,
            "on_part_data": self._data,
            "on_part_end": self._part_ends,
            "on_end": self._ends,
        }
        self._parser = MultipartParser(boundary, cast("MultipartCallbacks", callbacks))
        self._sink = sink
        self._aim = aim
        self._size = 0
        self._parts = 0
        self._complete = False
        self._sizes: dict[str, int] = {}  # of each field so far
        self._path = bytearray()
        self._file_name: str | None = None
        self._begin_part()

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_FILE_BYTES + _MAX_OTHER_BYTES:
            raise InvalidParameter(
                f"Field 'file' must have at most {MAX_FILE_BYTES} bytes, "
                f"and what comes with it {_MAX_OTHER_BYTES}"
            )
        try:
            self._parser.write(data)
        except FormParserError as error:
            field = f"Field '{self._field}'" if self._field else "The body"
            raise InvalidParameter(f"{field} is not well-formed multipart: {error}") from None

    def finish(self) -> str:
        """The path of the file, once the whole body has been fed."""
        if not self._complete:
            field = self._field or "file"
            raise InvalidParameter(
                f"Field '{field}' is cut off: the body ends before its closing boundary"
            )
        if "file" not in self._sizes:
            raise InvalidParameter("Field 'file' is required")
        if "path" in self._sizes:
            return self._checked_path()
        if not self._file_name:
            raise InvalidParameter("Field 'path' is required, since 'file' has no file name")
        return checked(self._file_name, "The file name of field 'file'")

    def _begin_part(self) -> None:
        self._headers: dict[str, str] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._field = ""
        self._announced: int | None = None

    # --- called by the parser, which has bounded the headers

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidParameter(f"The body must have at most {_MAX_PARTS} fields")
        self._begin_part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        name = self._name.decode("latin-1").lower()
        if name in self._headers:
            raise InvalidParameter(f"The body has a field with two headers '{name}'")
        self._headers[name] = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def _data_begins(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition", ""))
        self._field = _text(options.get(b"name", b""), "The name of a field")
        if kind != b"form-data" or not self._field:
            raise InvalidParameter("The body has a field without a name")
        if self._field in self._sizes and self._field in ("file", "path"):
            raise InvalidParameter(f"Field '{self._field}' appears twice")
        self._sizes[self._field] = 0
        if self._field == "file" and b"filename" in options:
            self._file_name = _text(options[b"filename"], "The file name of field 'file'")
        encoding = self._headers.get("content-transfer-encoding", "binary").lower()
        if encoding not in ("binary", "8bit", "7bit"):  # RFC 7578, 4.7: nobody sends others
            raise InvalidParameter(
                f"Field '{self._field}' must not have a content-transfer-encoding"
            )
        announced = self._headers.get("content-length")
        if announced is not None:
            if not (announced.isascii() and announced.isdigit() and len(announced) < 19):
                raise InvalidParameter(f"Field '{self._field}' has no valid content-length")
            self._announced = int(announced)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._sizes[self._field] += end - start
        if self._field == "file":
            self._sink(memoryview(data)[start:end])
        elif self._field == "path":
            if self._sizes["path"] > MAX_PATH_BYTES:
                raise InvalidParameter(f"Field 'path' must have at most {MAX_PATH_BYTES} bytes")
            self._path += data[start:end]

    def _part_ends(self) -> None:
        size = self._sizes[self._field]
        if self._announced is not None and self._announced != size:
            raise InvalidParameter(
                f"Field '{self._field}' has {size} bytes, not the {self._announced} "
                "of its content-length"
            )
        if self._field == "path":
            self._aim(self._checked_path())
        self._field = ""

    def _ends(self) -> None:
        self._complete = True

    def _checked_path(self) -> str:
        return checked(_text(self._path, "Field 'path'"), "Field 'path'")


def _text(raw: bytes | bytearray, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidParameter(f"{what} must be valid UTF-8") from None
