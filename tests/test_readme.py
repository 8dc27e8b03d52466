"""What the README says of settings and commands is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from steadyvoice.settings import FOR_THE_LAUNCHER, Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_table_and_nothing_else_is() -> None:
    table = README[README.index("| `STEADYVOICE_…`") : README.index("## Develop")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    assert named == {name.upper() for name in Settings.model_fields} | FOR_THE_LAUNCHER


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
