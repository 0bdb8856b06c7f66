"""Pages for a browser say what report.md says, fetch nothing, and work: sorting, numbers on hover, seeds, narrow screens."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import filled, sized

from ablations.catalog import load_study
from ablations.records import Store
from ablations.report import main
from ablations.reporting.axes import Tables
from ablations.reporting.figures import figures_of
from ablations.reporting.files import write_report
from ablations.reporting.html import report_page, write_index

NUM_1X1 = load_study("num_1x1")
SEEDS = 3
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A report whose figures are one point each: drawing them takes most of a report's time."""

    def without_drawing(tables: Tables) -> dict[str, Callable[[Tables], None]]:
        return {name: wraps(draw)(lambda tables: None) for name, draw in figures_of(tables).items()}

    def save_point(figure: None, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 300"/>')
        path.with_suffix(".png").touch()

    store = filled(tmp_path_factory.mktemp("results"), sized, seeds=SEEDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.reporting.figures.figures_of", without_drawing)
        patch.setattr("ablations.reporting.figures.save", save_point)
        write_report(NUM_1X1, "smoke", store)
    return store


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return (store.folder / "report.html").read_text()


def blocks(store: Store) -> list[str]:
    return (store.folder / "report.md").read_text().split("\n\n")


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert match is not None
    content: dict[str, Any] = json.loads(match[1])
    return content


def test_a_page_fetches_nothing_and_forbids_it(page: str) -> None:
    assert set(re.findall(r'\ssrc="(.{5})', page)) == {"data:"}
    links = re.findall(r'\shref="([^"]*)', page)
    assert links
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"url\(|@import", page)


def test_the_answer_comes_first_then_its_figure_then_the_table(page: str) -> None:
    places = [page.index(text) for text in ('<div class="answer">', 'data-chart="differences"', "<table>")]
    assert places == sorted(places)


def test_contents_lead_to_every_section(page: str, store: Store) -> None:
    titles = [block.removeprefix("## ").strip() for block in blocks(store) if block.startswith("## ")]
    links = re.findall(r'<li><a href="#([\w-]+)">(.*?)</a>', page)
    assert [html.unescape(text) for _, text in links] == ["Answer", *titles]
    assert all(f'id="{anchor}"' in page for anchor, _ in links)


def test_tables_are_those_of_the_markdown(page: str, store: Store) -> None:
    written = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for block in blocks(store)
        if block.startswith("|")
        for line in block.strip().splitlines()
        if not line.startswith("|:")
    ]
    rows = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    assert [[html.unescape(re.sub(r"<.*?>", "", cell)) for cell in row] for row in rows] == written


def test_charts_hold_the_numbers_of_the_tables(page: str, store: Store) -> None:
    summary = pd.read_csv(store.folder / "summary.csv").set_index("variant")
    charts = data_of(page)["charts"]
    (row,) = (row for row in charts["differences"]["rows"] if row["variant"] == "4x")
    assert row["points"][0]["x"] == pytest.approx(summary.loc["4x", "difference"], abs=1e-3)
    assert row["interval"] == pytest.approx(list(summary.loc["4x", ["difference_low", "difference_high"]]), abs=1e-3)
    assert f"{summary.loc['4x', 'difference']:+.2f}" in row["tip"]
    curves = {each["variant"]: each for each in charts["learning_curves"]["series"]}
    assert {name: len(each["seeds"]) for name, each in curves.items()} == dict.fromkeys(summary.index, SEEDS)
    last = pd.read_csv(store.folder / "curves.csv").query("variant == '4x'").groupby("examples")["val_accuracy"].mean()
    assert curves["4x"]["line"][-1] == pytest.approx([last.index[-1], 100 * last.iloc[-1]], abs=1e-3)
    (point,) = (point for point in charts["accuracy_against_params"]["points"] if point["variant"] == "4x")
    assert point["y"] == pytest.approx(100 * summary.loc["4x", "test_accuracy_mean"], abs=1e-3)


def test_what_explains_a_table_is_folded_and_the_rest_is_not(page: str) -> None:
    notes, _ = re.findall(r'<details class="notes">(.*?)</details>', page.partition("Convergence</h2>")[0], re.DOTALL)
    assert "Intervals are 95 %" in notes
    is_open = re.findall(r'<details class="section" id="[\w-]+"( open)?>', page)
    assert is_open[0] == " open"
    assert is_open[-1] == ""


def test_verdicts_stand_out_also_with_their_reason(tmp_path: Path) -> None:
    verdicts = {"better": "better", "[worse]": "worse", "inconclusive (Holm)": "inconclusive", "no verdict: 1 seed": ""}
    rows = "".join(f"\n| x | {verdict} |" for verdict in verdicts)
    page = report_page(
        ["# a: Why?", "Answer.", "Grounds.", f"| variant | verdict |\n|:--|:--|{rows}"], tmp_path, {}, {}
    )
    cells = re.findall(r"<td(?: class=\"(\w+)\")?>([^<x].*?)</td>", page)
    assert cells == [(kind, verdict) for verdict, kind in verdicts.items()]


HOSTILE = "<script>alert(1)</script> & ![x](https://x.org/a.png) <b>bold</b> &lt;i&gt; `a<b`"


def test_nothing_in_the_text_is_taken_for_a_tag(tmp_path: Path) -> None:
    table = f"| variant | note |\n|:--|:--|\n| <i>x</i> | {HOSTILE} |"
    styles = {"</script><script>alert(2)</script>": {"label": "<b>"}}
    parts = [f"# study: {HOSTILE}", HOSTILE, table, f"## {HOSTILE}", HOSTILE]
    page = report_page(parts, tmp_path, {}, styles)
    script = re.findall(r"<script[^>]*>", page)
    assert script == ['<script type="application/json" id="data">', "<script>"]
    assert data_of(page)["styles"] == styles
    body = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert not re.search(r"<(img|b|i|script)\b", body)
    assert "<code>a&lt;b</code>" in body
    assert "&lt;b&gt;bold&lt;/b&gt;" in body


def test_an_index_has_the_question_answer_figure_and_link_of_every_report(store: Store, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(store.folder.parent.parent, results)
    shutil.copytree(store.folder, results / "other" / "smoke")
    (results / "other/smoke/report.html").unlink()
    (results / "broken/smoke").mkdir(parents=True)
    (results / "broken/smoke/report.md").write_text("half")
    index = write_index(results).read_text()
    assert index.count("<article>") == 2
    assert index.count(NUM_1X1.question) == 2
    answer = blocks(store)[1].replace("**", "").split("(")[0].replace("`", "")
    assert answer in html.unescape(re.sub(r"<.*?>", "", index))
    links, images = (set(re.findall(rf'\s{kind}="([^"]*)', index)) for kind in ("href", "src"))
    assert links == {"num_1x1/smoke/report.html", "other/smoke/report.md"}
    assert images == {f"{name}/smoke/figures/differences.png" for name in ("num_1x1", "other")}
    assert all((results / path).exists() for path in links | images)


def test_reporting_without_a_study_writes_the_index(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    results = store.folder.parent.parent
    (results / "index.html").unlink()
    assert main(["--results", str(results)]) == 0
    assert str(results / "index.html") in capsys.readouterr().out
    assert (results / "index.html").exists()


def test_an_index_of_nothing_says_how_to_make_a_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no report in .*: python -m ablations\.run STUDY makes one"):
        write_index(tmp_path)


# --- in a real browser


def browse(page: Path, width: int, profile: Path, script: str = "") -> tuple[Any, list[str]]:
    """What `script` returns half a second after the page has loaded, and what was written to the console."""
    if script:  # the page's policy forbids scripts that are not its own
        content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
        call = (
            f"<script>setTimeout(() => {{ document.title = JSON.stringify((() => {{ {script} }})()); }}, 500)</script>"
        )
        page = profile.with_name(f"{page.stem}-tested.html")
        page.write_text(content.replace("</body>", f"{call}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    command = [str(CHROMIUM), *options, "--virtual-time-budget=3000", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=200, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title[1])) if script else None, console


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1500, 400])
@pytest.mark.parametrize("name", ["report.html", "../../index.html"])
def test_a_page_opens_without_an_error(store: Store, name: str, width: int, tmp_path: Path) -> None:
    assert browse((store.folder / name).resolve(), width, tmp_path / "profile") == (None, [])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["report.html", "../../index.html"])
def test_a_narrow_page_does_not_scroll_sideways(store: Store, name: str, tmp_path: Path) -> None:
    """In a frame of 400 px: a headless window is 500 px wide at least."""
    path = (store.folder / name).resolve()
    content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    frame = path.with_name("frame.html")
    frame.write_text(
        f'<title></title><body><iframe style="width: 400px; height: 900px; border: 0" srcdoc="{html.escape(content)}"></iframe></body>'
    )
    script = """
        const page = document.querySelector("iframe").contentWindow;
        page.document.querySelectorAll("details").forEach((each) => { each.open = true; });
        return [page.innerWidth, page.document.documentElement.scrollWidth];
    """
    (visible, needed), _ = browse(frame, 1500, tmp_path / "profile", script)
    assert visible == 400
    assert needed <= visible


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_press_on_a_heading_sorts_by_its_numbers(store: Store, tmp_path: Path) -> None:
    script = """
        const table = document.querySelector("table"), heads = [...table.tHead.rows[0].cells];
        const column = heads.findIndex((head) => head.textContent.trim().startsWith("difference"));
        const read = () => [heads[column].ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[column].textContent)];
        return [0, 1, 2].map(() => { heads[column].firstElementChild.click(); return read(); });
    """
    (up, rising), (down, falling), (neither, first) = browse(
        store.folder / "report.html", 1500, tmp_path / "p", script
    )[0]
    assert (up, down, neither) == ("ascending", "descending", None)
    numbers = [float(text.split()[0]) for text in rising if text]
    assert len(numbers) > 3
    assert numbers == sorted(numbers)
    assert rising[-1] == falling[-1] == ""  # the baseline, which has none
    assert [float(text.split()[0]) for text in falling if text] == numbers[::-1]
    assert first != rising
    assert sorted(first) == sorted(rising)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_charts_say_their_numbers_and_show_and_hide_variants_and_seeds(store: Store, tmp_path: Path) -> None:
    script = """
        const chart = (name) => document.querySelector(`[data-chart=${name}]`), tip = document.getElementById("tip");
        const point = (node) => {
            const box = node.getBoundingClientRect();
            const at = { clientX: box.x + box.width * 0.99, clientY: box.y + box.height / 2 };
            node.dispatchEvent(new PointerEvent("pointermove", at));
            return tip.hidden ? "" : tip.textContent;
        };
        const curves = chart("learning_curves"), buttons = () => [...curves.querySelectorAll(".legend span")];
        const button = (name, place) => buttons().find((each) => each.textContent.startsWith(name)).children[place];
        const shown = () => [...curves.querySelectorAll("g[data-variant]")].map((group) => group.dataset.variant);
        const seeds = () => [...curves.querySelectorAll("[data-seed]")].map((each) => each.parentNode.dataset.variant);
        const said = {
            difference: point([...chart("differences").querySelectorAll("[aria-label^='4x']")].at(-1)),
            curves: point(curves.querySelector("rect.hit")),
            scatter: point(chart("accuracy_against_params").querySelector("[aria-label^='4x']")),
            before: shown(),
        };
        button("1x", 1).click();
        said.seeds = seeds();
        button("1x", 0).click();
        said.after = shown();
        return said;
    """
    said, _ = browse(store.folder / "report.html", 1500, tmp_path / "profile", script)
    row = pd.read_csv(store.folder / "summary.csv").set_index("variant").loc["4x"]
    assert (
        f"{row.difference:+.2f} ({row.difference_low:+.2f} to {row.difference_high:+.2f}) points" in said["difference"]
    )
    assert "after 1,024 images" in said["curves"]
    assert "4x: " in said["curves"]
    assert f"{100 * row.test_accuracy_mean:.2f} %" in said["scatter"]
    assert said["before"] == ["0x", "1x", "2x", "3x", "4x"]  # of twelve
    assert said["seeds"] == ["1x"] * SEEDS
    assert said["after"] == ["0x", "2x", "3x", "4x"]
