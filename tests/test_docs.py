"""README.md, CHANGELOG.md and docs/: what they name exists, and they keep to their size."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from steadyvoice.settings import FOR_THE_LAUNCHER, Settings
from tests.test_imports import LEAVES, MAY_IMPORT

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_COLUMNS = 100
MAX_README_LINES = 120
MAX_PARAGRAPH_LINES = 5
MAX_DECISION_LINES = 8

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def columns(line: str) -> int:
    """Width in a terminal, where a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The fragments by which GitHub addresses the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def paragraphs(text: str) -> list[list[str]]:
    """Blocks of prose and list items, without tables, headings and code."""
    found: list[list[str]] = [[]]
    for line in without_code(text).splitlines():
        if not line.strip() or line.startswith(("|", "#")):
            found.append([])
        elif re.match(r"\s*([-*]|\d+\.) ", line):
            found.append([line])
        else:
            found[-1].append(line)
    return [block for block in found if block]


def test_every_setting_is_in_the_table_and_nothing_else_is() -> None:
    settings = text_of("docs/settings.md")
    table = settings[settings.index("| `STEADYVOICE_…`") :].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}

    assert named == {name.upper() for name in Settings.model_fields} | FOR_THE_LAUNCHER


@each_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))

    assert set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)(?=[`\s]|$)", code_of(page.read_text(encoding="utf-8")))) <= targets


def code_of(text: str) -> str:
    """What a page shows as code, where `make` is the command and not the verb."""
    blocks = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", without_code(text))
    return "\n".join(blocks + spans)


def test_the_gate_runs_the_command_that_the_readme_names() -> None:
    assert "make test" in text_of("README.md")
    assert "make test" in text_of(".ci/run")


@each_page
def test_every_linked_file_and_heading_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)

    for link in links:
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not fragment or fragment in anchors(target.read_text(encoding="utf-8")), link


@each_page
def test_no_line_is_too_wide(page: Path) -> None:
    wide = [line for line in page.read_text(encoding="utf-8").splitlines() if columns(line) > MAX_COLUMNS]

    assert wide == []


@each_page
def test_no_paragraph_is_too_long(page: Path) -> None:
    assert [block for block in paragraphs(page.read_text(encoding="utf-8")) if len(block) > MAX_PARAGRAPH_LINES] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", text_of("docs/architecture.md")))
    folders = ("", "steadyvoice", "steadyvoice/engine", "steadyvoice/worker/recognizers")

    assert {name for name in named if not any((ROOT / folder / name).exists() for folder in folders)} == set()


def test_the_architecture_shows_the_allowed_imports() -> None:
    table = text_of("docs/architecture.md").split("| package | imports beside leaves |\n|---|---|\n")[1].split("\n\n")[0]
    shown = {}
    for line in table.splitlines():
        _, packages, imported, _ = line.split("|")
        for package in re.findall(r"\w+", packages):
            shown[package] = set(re.findall(r"\w+", imported))

    assert shown == {package: allowed - LEAVES for package, allowed in MAY_IMPORT.items() if package != "leaves"}


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) < MAX_README_LINES


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", text_of("README.md")))

    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} <= linked


def test_every_decision_is_short_dated_and_in_the_index() -> None:
    index, *sections = re.split(r"^## (?!Index)", text_of("docs/decisions.md"), flags=re.MULTILINE)
    entries = [entry for section in sections for entry in re.split(r"^### ", section, flags=re.MULTILINE)[1:]]
    dated = []
    for entry in entries:
        title, *body = (line for line in entry.splitlines() if line)
        date = re.match(r"\d{4}-\d{2}-\d{2}", body[0])
        assert date, title
        assert len(body) <= MAX_DECISION_LINES, title
        dated.append((date.group(), title))

    assert re.findall(r"^- (\S+) \[([^\]]+)\]", index, re.MULTILINE) == dated


def test_every_result_that_the_benchmarks_name_is_there() -> None:
    names = re.findall(r"`…(-[\w-]+)`", text_of("docs/benchmarks.md"))

    assert names
    for name in names:
        assert (ROOT / "bench" / "results" / f"2026-11{name}.json").exists(), name


def table(section: str) -> dict[str, list[str]]:
    """First cell -> other cells, of the first table below a heading of docs/benchmarks.md."""
    below = text_of("docs/benchmarks.md").split(f"\n## {section}\n")[1]
    rows = re.findall(r"^\| (.*) \|$", below.split("\n|", 1)[1].split("\n\n")[0], re.MULTILINE)
    return {first: cells for first, *cells in (row.split(" | ") for row in rows)}


def results(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(text_of(f"bench/results/{name}.json"))["rows"]
    return rows


def shown(value: float, cell: str) -> bool:
    """Whether the first number of the cell is this value, rounded as it is there."""
    number = re.match(r"[\d,]+(?:\.(\d+))?", cell)
    assert number, cell
    return abs(float(number[0].replace(",", "")) - value) <= 0.51 * 10 ** -len(number[1] or "")


ENGINES = {
    "ours, int8": "ours-int8",
    "ours, bf16": "ours-bf16",
    "ours, fp32": "ours-fp32",
    "sherpa-onnx, int8": "sherpa-int8",
    "sherpa-onnx, fp32": "sherpa-fp32",
    "FunASR, tuned": "funasr-best",
    "FunASR, as its README": "funasr-default",
}


def test_the_recognition_table_is_the_result() -> None:
    measured = {row["what"]: row for row in results("2026-11-22-recognition-e7fa906")}
    columns = ("audio_s_per_s", "first_transcript_s", "peak_rss_mb", "latency_ms")
    cells = table("Recognition")

    assert {name for name in cells if name in ENGINES} == set(ENGINES)
    for name, key in ENGINES.items():
        for column, cell in zip(columns, cells[name], strict=True):
            assert shown(measured[key][column], cell), (name, column)


def test_the_memory_table_is_the_result() -> None:
    measured = {(row["contender"], row["scenario"]): row["peak_mb"] for row in results("2026-11-21-memory") if not row["cap_mb"]}
    cells = table("Memory")
    for scenario in ("1 min", "3 min", "5 min", "5 x 3 min at once", "1 hour"):
        for contender, cell in zip(("naive", "shared", "four-step", "ours"), cells[scenario], strict=True):
            key = scenario.removesuffix(" at once").replace(" ", "")
            assert shown(measured[contender, key], cell), (scenario, contender)


def test_the_speech_table_is_the_result() -> None:
    measured = {
        (row["side"], row["callers"]): row
        for row in results("2026-11-21-synthesis")
        if row["engine"] == "indextts2" and "side" in row
    }
    for callers, cells in table("Speech").items():
        if callers.isdecimal():
            sides = ("one lock", "steadyvoice") * 2
            columns = ("first_audio_mean_s",) * 2 + ("whole_mean_s",) * 2
            for side, column, cell in zip(sides, columns, cells, strict=True):
                assert shown(measured[side, int(callers)][column], cell), (callers, side, column)
