"""Write pages for a browser: a study's report with charts and sortable tables, and an index of all reports in a folder.

A page is one file that fetches nothing: style, script, figures and numbers are inside, and its policy forbids all else. It is
made of the parts that report.md has. Nothing in their text is taken for tags.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nin.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment
    from markdown import Markdown
    from markupsafe import Markup

    from ablations.reporting.charts import Chart

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
FIGURE = re.compile(r"!\[[^\]]*\]\(figures/([^/()]+)\.png\)")
CELL_RULE = re.compile(r":?-+:?")
NUMBER = re.compile(r"\W*\d.*|[–∞]|")
VERDICT = re.compile(r"\W*(better|worse|equivalent|inconclusive|baseline)\b")
NUM_OPEN = 3  # sections that are open at first; the others are folded
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass
class Block:
    """A piece of a section: text, a table, a figure, or text below a table that is folded.

    kind   "text", "notes", "table" or "figure"
    name   of a figure
    """

    kind: str
    html: "Markup | str" = ""
    name: str = ""
    image: str = ""
    caption: "Markup | str" = ""
    head: Sequence["Markup"] = ()
    rows: Sequence[Sequence[tuple[str, "Markup"]]] = ()  # each cell with its class


@dataclass
class Section:
    """A heading with what stands below it; the first one has none."""

    title: str = ""
    anchor: str = ""
    is_open: bool = True
    blocks: list[Block] = field(default_factory=list)


class Entry(NamedTuple):
    """A report in an index."""

    study: str
    protocol: str
    question: str
    answer: "Markup"
    image: str
    link: str


def report_page(
    parts: Sequence[str], folder: Path, charts: Mapping[str, "Chart"], styles: Mapping[str, "Chart"]
) -> str:
    """The report as a page.

    parts   of the report, in Markdown: the title, the answer, its grounds and caveats, then the sections
    folder  where figures/ is
    charts  drawn by the page's script in the place of the figures of these names (`ablations.reporting.charts`)
    styles  of the variants in the charts
    """
    title, *blocks = (block.strip("\n") for part in parts if part for block in part.split("\n\n") if block.strip())
    name, _, question = title.removeprefix("# ").partition(": ")
    opening = list(takewhile(lambda block: not block.startswith(("![", "## ", "|")), blocks))
    sections = list(_sections(blocks[len(opening) :], folder))
    content = json.dumps({"styles": styles, "charts": charts}, separators=(",", ":"), allow_nan=False)
    return _render(
        "report.html",
        name=name,
        question=question or name,
        answer=_text("\n\n".join(opening)),
        sections=sections,
        charts=charts,
        data=_markup(content.replace("<", "\\u003c")),
    )


def write_index(results: Path) -> Path:
    """Write index.html into a folder of results: every report's question, answer and figure, with a link.

    Raises ValueError if there is no report.
    """
    entries = [entry for path in sorted(results.glob("*/*/report.md")) if (entry := _entry(path, results))]
    if not entries:
        raise ValueError(f"there is no report in {results}: python -m ablations.run STUDY makes one")
    path = results / INDEX
    write_atomically(path, _render(INDEX, entries=entries))
    return path


def _entry(path: Path, results: Path) -> Entry | None:
    blocks = [block for block in path.read_text().split("\n\n") if block.strip()]
    if len(blocks) < 2 or not blocks[0].startswith("# "):
        return None
    folder = path.parent
    name, _, question = blocks[0].strip()[2:].partition(": ")
    figures = (FIGURE.fullmatch(block.strip()) for block in blocks)
    image = next((folder / f"figures/{match[1]}.png" for match in figures if match), None)
    page = folder / "report.html"
    return Entry(
        folder.parent.name,
        folder.name,
        question or name,
        _text(blocks[1]),
        image.relative_to(results).as_posix() if image and image.exists() else "",
        (page if page.exists() else path).relative_to(results).as_posix(),
    )


def _sections(blocks: Sequence[str], folder: Path) -> Iterator[Section]:
    section, num = Section(), 0
    follows_table = False
    for text in blocks:
        if text.startswith("## "):
            yield section
            num += 1
            title = text.removeprefix("## ")
            section = Section(title, f"section-{num}", is_open=num <= NUM_OPEN)
            follows_table = False
            continue
        last = section.blocks[-1] if section.blocks else None
        figure = FIGURE.fullmatch(text)
        if figure:
            section.blocks.append(Block("figure", name=figure[1], image=_embedded(folder / "figures" / figure[1])))
            follows_table = False
        elif last and last.kind == "figure" and not last.caption and re.fullmatch(r"\*[^*].*\*", text, re.DOTALL):
            last.caption = _text(text[1:-1])
        elif text.startswith("|"):
            section.blocks.append(_table(text))
            follows_table = True
        elif last and last.kind == "notes":
            last.html += _text(text)
        else:
            section.blocks.append(Block("notes" if follows_table else "text", _text(text)))
    yield section


def _table(text: str) -> Block:
    head, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines())
    body = [row for row in rows if not all(CELL_RULE.fullmatch(cell) for cell in row)]
    columns = range(len(head))
    are_numbers = [
        place > 0 and all(NUMBER.fullmatch(row[place]) for row in body if place < len(row)) for place in columns
    ]
    return Block(
        "table",
        head=[_cell(cell) for cell in head],
        rows=[
            [(_class(cell, is_number), _cell(cell)) for cell, is_number in zip(row, are_numbers, strict=False)]
            for row in body
        ],
    )


def _class(cell: str, is_number: bool) -> str:
    verdict = VERDICT.match(cell)
    return "number" if is_number else verdict[1] if verdict else ""


def _cell(text: str) -> "Markup":
    html = _text(text)
    return _markup(html.removeprefix("<p>").removesuffix("</p>"))


def _text(text: str) -> "Markup":
    """Markdown as HTML; tags in it are text, and so are images."""
    converter = _converter()
    return _markup(converter.reset().convert(text))


@cache
def _converter() -> "Markdown":
    from markdown import Markdown

    converter = Markdown()
    converter.preprocessors.deregister("html_block")
    for name in ("html", "image_link", "image_reference", "short_image_ref", "autolink", "automail"):
        converter.inlinePatterns.deregister(name)
    return converter


def _embedded(stem: Path) -> str:
    """The figure as the address of an image: its lines if they are there, else its points."""
    for suffix, kind in TYPES.items():
        path = stem.with_name(stem.name + suffix)
        if path.exists():
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return ""


def _markup(text: str) -> "Markup":
    from markupsafe import Markup

    return Markup(text)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _render(template: str, **values: object) -> str:
    style, script = ((PAGE / name).read_text() for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    values |= {"style": _markup(style), "script": _markup(script), "policy": policy}
    return _environment().get_template(template).render(values) + "\n"
