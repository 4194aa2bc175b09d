"""The pages of the documents in a real browser: on a phone's width, dark and light, nothing from outside."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.entrypoints.program import RunningProgram
from tests.web.test_page import ARGS, CHROMIUM

pytestmark = pytest.mark.peers

PATHS = ("/docs", "/docs/rest", "/docs/rpc", "/docs/events")
CONTRAST_MIN = 4.5
CONTRASTS = """() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b] = parts.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const worst = { ratio: 21, of: "" };
  for (const element of document.querySelectorAll("main *, header *, nav *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst.ratio) Object.assign(worst, { ratio, of: element.outerHTML.slice(0, 200) });
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "these tests need chromium: apt-get update && apt-get install -y chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("hive") / "data"
    with RunningProgram(root) as program:
        yield program.urls["tools"]


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_pages_can_be_read_and_load_nothing_from_outside(
    browser: Browser, tools: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    for path in PATHS:
        page.goto(tools + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        worst = page.evaluate(CONTRASTS)
        assert worst["ratio"] >= CONTRAST_MIN, (path, worst)
    context.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(tools)] == []


def test_a_name_in_the_contents_leads_to_its_place(browser: Browser, tools: str) -> None:
    page = browser.new_page()
    page.goto(f"{tools}/docs/rest")
    page.get_by_role("navigation", name="Contents").get_by_role("link", name="task.submit", exact=True).click()
    assert page.url.endswith("#task-submit")
    assert page.locator("#task-submit").evaluate("element => element.getBoundingClientRect().top") < 200
    page.close()
