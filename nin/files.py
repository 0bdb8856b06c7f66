"""Write a file whole or not at all, and name the file of a database."""

import os
import re
import uuid
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # names of files that `write_atomically` has not finished


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically, even if the machine stops midway. Creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # not tempfile's, which only its owner may read
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names no file
        raise


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite database. SQLAlchemy encodes characters that it would decode, as "%20" in a folder's name.

    An encoded URL names the driver, since from "sqlite:///" MLflow takes the encoded name and makes a folder of it.
    """
    from sqlalchemy import URL, make_url

    plain = f"sqlite:///{file}"
    if make_url(plain).database == str(file):
        return plain
    return URL.create("sqlite+pysqlite", database=str(file)).render_as_string()
