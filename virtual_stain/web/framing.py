"""Where one HTTP/1.1 request ends and the next begins, read so strictly that no proxy can read it in another way.

Two readers that disagree about the end of a request let somebody hide a second request in the first ("request
smuggling"): a proxy in front sees one, the server two. So what more lenient readers repair is refused here. No route
needs Transfer-Encoding: a body has a Content-Length, or there is none.
"""

from __future__ import annotations

import re

MAX_HEAD = 64 * 1024
"""Bytes of a request line with its headers."""
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_END = b"\r\n\r\n"


class Framing:
    """Follows the bytes of one connection."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._body_left = 0

    def whole_parts(self, data: bytes) -> bytes:
        """What may be passed on: whole heads and pieces of bodies. The rest of a head is kept until its end is there.

        Raises ValueError, which says what is wrong; what was sound before it is in `passed` of the error.
        """
        at, passed = 0, bytearray()
        if self._head:
            begun, data = len(self._head), bytes(self._head) + data
            self._head.clear()
        else:
            begun = 0
        while at < len(data):
            if self._body_left:
                end = min(len(data), at + self._body_left)
                self._body_left -= end - at
            else:
                end = data.find(_END, max(at, begun - len(_END) + 1)) + len(_END)
                if end < len(_END):  # not there yet
                    self._head += data[at:]
                    if len(self._head) > MAX_HEAD:
                        raise FramingError(f"more than {MAX_HEAD} bytes of headers", bytes(passed))
                    break
                try:
                    self._body_left = body_length(data[at:end])
                except ValueError as error:
                    raise FramingError(str(error), bytes(passed)) from None
            passed += data[at:end]
            at = end
        return bytes(passed)


class FramingError(ValueError):
    """A head that could be read in two ways. `passed`: sound bytes in front of it."""

    def __init__(self, reason: str, passed: bytes) -> None:
        super().__init__(reason)
        self.passed = passed


def body_length(head: bytes) -> int:
    """Bytes of the body behind a head (which ends with its empty line). Raises ValueError.

    >>> body_length(b"PUT /a HTTP/1.1\\r\\nContent-Length: 12\\r\\n\\r\\n")
    12
    """
    if len(head) > MAX_HEAD:
        raise ValueError(f"more than {MAX_HEAD} bytes of headers")
    request, *lines = head.removesuffix(_END).split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(request):
        raise ValueError("a request line that is none")
    lengths = []
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise ValueError("a header that is none: folded, with a bare CR, LF or NUL, or a space before the colon")
        name = found[1].lower()
        if name == b"transfer-encoding":
            raise ValueError("Transfer-Encoding: a body needs a Content-Length")
        if name == b"content-length":
            lengths.append(found[2].rstrip(b" \t"))
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        raise ValueError("expected one Content-Length in digits")
    return int(lengths[0]) if lengths else 0
