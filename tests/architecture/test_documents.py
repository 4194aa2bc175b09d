"""The checker of the documents can say no, and says the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints.settings import Settings
from tests import documents


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small, sound tree of documents."""
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Hive\n\n[more](docs/more.md#the-rest-of-it), [web](https://example.org)\n")
    (tmp_path / "docs" / "more.md").write_text("# More\n\n## The `rest` of it\n\n[up](../README.md)\n")
    return tmp_path


def broken(root: Path) -> list[str]:
    return list(documents.broken_links([root / "README.md", root / "docs" / "more.md"]))


def test_a_sound_tree_has_no_broken_link(pages: Path) -> None:
    assert broken(pages) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gone](docs/gone.md) [more](docs/more.md)", "README.md: nothing is at docs/gone.md"),
        ("[more](docs/more.md#nowhere)", "README.md: no heading answers to docs/more.md#nowhere"),
        ("[up](#nowhere) [more](docs/more.md)", "README.md: no heading answers to #nowhere"),
        ("```\n[more](docs/more.md)\n```", "docs/more.md: no page links to it"),
    ],
    ids=["a page that is not there", "a heading", "a heading of its own", "a page that nothing leads to"],
)
def test_what_is_wrong_with_a_link_is_said(pages: Path, text: str, said: str) -> None:
    (pages / "README.md").write_text(text)
    assert broken(pages) == [said]


def test_a_page_that_was_changed_by_hand_is_not_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "REFERENCE", tmp_path)
    monkeypatch.setattr(documents, "PAGES", {"settings.md": documents.settings})
    (tmp_path / "settings.md").write_text(documents.settings())
    assert list(documents.stale()) == []
    (tmp_path / "settings.md").write_text(documents.settings().replace("3001", "3002"))
    [said] = documents.stale()
    assert said.startswith("docs/reference/settings.md is not current")


def test_a_long_readme_is_refused(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PAGES", {})
    monkeypatch.setattr(documents, "machine_defaults", lambda: set(documents.MACHINE_DEFAULTS))
    assert list(documents.complaints()) == []
    with (pages / "README.md").open("a") as readme:
        readme.write("\n" * 120)
    assert list(documents.complaints()) == ["README.md has 123 lines; 119 is the most"]


def test_the_pages_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: make() for name, make in documents.PAGES.items()}
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(Settings.model_fields["data_dir"], "default_factory", lambda: "/elsewhere")
    assert {name: make() for name, make in documents.PAGES.items()} == before


def test_every_setting_event_command_and_verb_is_on_its_page() -> None:
    def missing() -> Iterator[str]:
        settings, events, rest, nats = documents.settings(), documents.events(), documents.rest(), documents.nats()
        program = documents.registry(documents.QUERIES)
        yield from (name for name in Settings.model_fields if f"HIVEBUS_{name.upper()}" not in settings)
        yield from (spec.name for spec in program.event_specs.values() if f"### {spec.name}\n" not in events)
        yield from (spec.name for spec in program.client_commands() if f"`{spec.name}`" not in rest)
        yield from (spec.name for spec in program.client_commands() if f"### hive.cmd.{spec.name}\n" not in nats)
        yield from (name for name in program.queries if f"`{name}`" not in rest)

    assert list(missing()) == []
