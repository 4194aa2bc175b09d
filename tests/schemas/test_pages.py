"""The pages at port 8080: without a key, without a script, without anything from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from entrypoints.schemas.declared import documents
from entrypoints.schemas.markup import joined, line, tag
from tests.entrypoints.program import RunningProgram

MADE = documents("0.0.0")


class Read(HTMLParser):
    """What a page holds: ids, links, tags that are open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        said = dict(attributes)
        self.tags.add(name)
        self.ids += [value for key, value in attributes if key == "id" and value]
        self.links += [value for key in ("href", "src") if (value := said.get(key))]
        if name not in ("meta", "link", "br"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProgram]:
    with RunningProgram(tmp_path_factory.mktemp("hive") / "data") as running:
        yield running


@pytest.mark.parametrize("path", MADE.PAGES)
def test_a_page_is_whole_and_every_anchor_leads_somewhere(path: str) -> None:
    page = Read(MADE.page(path))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.links if link.startswith("#") and link[1:] not in page.ids] == []
    elsewhere = {link for link in page.links if not link.startswith("#")}
    assert elsewhere <= {*MADE.PAGES, *(f"/{name}.json" for name in MADE.NAMES), "/docs/style.css", "/docs/favicon.svg"}
    assert not page.tags & {"script", "img", "iframe", "style", "form"}


def test_every_operation_method_and_message_has_its_place() -> None:
    rest, rpc, events = (MADE.page(path) for path in ("/docs/rest", "/docs/rpc", "/docs/events"))
    for methods in MADE.openapi["paths"].values():
        assert all(f'id="{re.sub("[^a-z0-9]+", "-", found["operationId"])}"' in rest for found in methods.values())
    assert all(f"<code>{method['name']}</code>" in rpc for method in MADE.openrpc["methods"])
    assert all(
        f">{message['title']}</a>" in events
        for message in MADE.asyncapi["components"]["messages"].values()
        if message["title"] != "refusal" and not message["title"].endswith(" accepted")
    )


def test_what_is_said_is_text_and_never_markup() -> None:
    assert tag("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'
    assert line("a `<i>` b") == "a <code>&lt;i&gt;</code> b"
    assert joined(None, "&", tag("br")) == "&amp;<br>"


@pytest.mark.parametrize(
    "path", [*MADE.PAGES, "/docs/style.css", "/docs/favicon.svg", *(f"/{name}.json" for name in MADE.NAMES)]
)
def test_it_is_served_without_a_key_and_kept_by_browsers(program: RunningProgram, path: str) -> None:
    address = program.urls["tools"] + path
    first = program.client.get(address)
    assert first.status_code == 200
    assert "default-src 'self'" in first.headers["content-security-policy"]
    again = program.client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert program.client.head(address).status_code == 200


def test_the_served_document_names_the_programs_own_version(program: RunningProgram) -> None:
    served = program.client.get(program.urls["tools"] + "/openapi.json").json()
    assert served["info"]["version"] == program.get("/api/status")["version"]
    assert served["paths"] == MADE.openapi["paths"]
