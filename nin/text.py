"""Format texts for people: lines, counts, errors without credentials, and tables."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_REASON_LENGTH = 300  # characters


def one_line(text: object) -> str:
    """Replace line breaks by spaces."""
    return " ".join(str(text).split())


def counted(count: int, noun: str) -> str:
    """ "1 run", "2 runs", "1,200 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shape_text(tensor: "Tensor") -> str:
    """Return type and shape in words, such as "uint8 (2, 1, 28, 28)"."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def shortened(names: Sequence[str], most: int) -> str:
    """ "a, b and 7 more": at most so many names."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def redacted(text: str) -> str:
    """Mask the credentials of URLs in the text, before the host and in the query."""
    text = re.sub(r"://[^/\s]\S*@", "://***@", text)  # after a third slash comes a path
    return re.sub(r"((?:password|passwd|pwd|token)=)[^\s&;'\"]+", r"\1***", text, flags=re.IGNORECASE)


def reason(error: Exception) -> str:
    """Shorten another library's error to one readable line, without credentials and SQL statements."""
    text = f"{type(error).__name__}: {error}".partition("[SQL")[0].partition("(Background on")[0]
    return redacted(one_line(text))[:MAX_REASON_LENGTH]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as text. Columns are as wide as their texts; numbers are aligned right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(text) for text in column) for column in columns]
    numeric = [all(text[:1] in "+-.0123456789" for text in column[1:]) for column in columns]  # or empty
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
