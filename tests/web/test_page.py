import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, WebSocketRoute, expect, sync_playwright

from tests.web.running import Running

pytestmark = pytest.mark.peers

APPEARS_MS = 8_000
COMES_BACK_MS = 20_000
CHROMIUM = shutil.which("chromium")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<script>alert(1)</script>"
ONCE = {"max_attempts": 1}

expect.set_options(timeout=APPEARS_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "these tests need chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def hivebus(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    running.start()
    yield running
    running.stop()


class Watched:
    """A page, and what it asked for, complained about and popped up."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.popups: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.popups.append(dialog.message), dialog.dismiss()))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def row(self, task_id: str) -> Locator:
        return self.page.locator(f'#tasks-rows tr[data-key="{task_id}"]')


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield Watched(context.new_page())
    context.close()


@pytest.fixture
def opened(hivebus: Running, watched: Watched) -> Watched:
    watched.page.goto(hivebus.link)
    expect(watched.page.locator("#link")).to_have_text("live")
    return watched


def test_given_the_printed_link_when_it_is_opened_then_the_page_is_live_and_the_ticket_leaves_the_address_bar(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    assert page.url == f"{hivebus.origin}/"
    status = page.locator("#status")
    figures = ("Queue depth", "Live tasks", "Alerts")
    for name, value in (("Status", "healthy"), ("Broker", "healthy"), *((figure, "0") for figure in figures)):
        expect(status.locator(f'div:has(dt:text-is("{name}")) dd')).to_have_text(value)
    expect(page.locator("#agents-rows tr")).to_have_count(2)
    expect(page.locator("#tasks-rows")).to_contain_text("No task was submitted yet. Paste the line above")
    expect(page.locator("#submit-line")).to_have_text("hivebus task submit --type hello --wait -- echo hello")
    expect(page.locator("#events-rows tr").first).to_be_visible()
    assert page.context.cookies()[0]["httpOnly"]
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    assert opened.errors == []


def test_given_an_open_page_when_tasks_are_submitted_over_rest_then_their_rows_appear_and_end_without_a_reload(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    page.evaluate("window.same = true")
    good = hivebus.submit("echo", "hello")
    bad = hivebus.submit("sh", "-c", "echo no space left >&2; exit 28", type_="index", retry=ONCE)
    gpu = hivebus.submit("true", type_="train", requires=["gpu"])
    hostile = hivebus.submit("echo", HOSTILE, name=HOSTILE)

    expect(opened.row(good).locator("td").nth(0)).to_have_text("completed")
    expect(opened.row(good).locator("td").nth(1)).to_have_text("shell")
    expect(opened.row(good).locator("td").nth(4)).to_have_text("0")
    expect(opened.row(bad)).to_contain_text("failed")
    expect(opened.row(bad)).to_contain_text("sh exited with code 28: no space left")
    expect(opened.row(gpu)).to_contain_text("unassignable")
    expect(opened.row(gpu)).to_contain_text("no agent with executor command has capability gpu")
    expect(opened.row(gpu).locator(".unknown").first).to_have_attribute("title", "no agent has it yet")
    expect(opened.row(hostile).locator("button.name")).to_have_text(HOSTILE)
    expect(page.locator("#events-rows")).to_contain_text("task.completed")

    assert page.evaluate("window.same") is True
    assert page.locator("#tasks script").count() == 0
    assert opened.popups == []
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(hivebus.origin + "/")] == []


def test_given_an_ended_task_when_its_row_is_clicked_then_a_dialog_shows_all_of_it_and_escape_returns_to_the_row(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    task_id = hivebus.submit("sh", "-c", "printf '\\n\\033[31m<b>out</b>'; echo err >&2", name="look into me")
    expect(opened.row(task_id)).to_contain_text("completed")
    name = opened.row(task_id).locator("button.name")
    name.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text("look into me")
    expect(dialog.locator("#task-parameters")).to_contain_text('"argv"')
    # The first line end of a text survives the HTML parser, and an escape character is shown, not obeyed.
    assert dialog.locator("#task-stdout").text_content() == "\n\\u001b[31m<b>out</b>"
    expect(dialog.locator("#task-stderr")).to_have_text("err")
    expect(dialog.get_by_role("table", name="Attempts")).to_contain_text("completed")
    expect(dialog.get_by_role("table", name="History")).to_contain_text("task.submitted")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(name).to_be_focused()
    opened.row(task_id).locator("td").first.click()
    expect(dialog).to_be_visible()
    assert opened.errors == []


def test_given_a_running_task_when_its_button_is_pressed_then_it_is_cancelled_and_the_button_goes(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    task_id = hivebus.submit("sleep", "60", name="sleeper")
    expect(opened.row(task_id)).to_contain_text("running")
    page.get_by_role("button", name="Cancel sleeper").click()
    expect(opened.row(task_id)).to_contain_text("cancelled")
    expect(opened.row(task_id).get_by_role("button", name="Cancel")).to_have_count(0)
    expect(opened.row(task_id).locator("button.name")).to_be_focused()
    expect(page.locator("#note")).not_to_be_empty()
    assert opened.errors == []


def test_given_a_focused_row_and_a_scrolled_output_when_new_tasks_arrive_then_both_stay_where_they_are(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    first = hivebus.submit("seq", "1", "400", name="numbers")
    expect(opened.row(first)).to_contain_text("completed")
    name = opened.row(first).locator("button.name")
    name.focus()
    second = hivebus.submit("echo", "two")
    expect(opened.row(second)).to_contain_text("completed")
    expect(name).to_be_focused()

    name.click()
    output = page.locator("#task-stdout")
    output.evaluate("element => { element.scrollTop = 1000; element.dataset.same = 'yes'; }")
    third = hivebus.submit("echo", "three")
    expect(opened.row(third)).to_contain_text("completed")
    assert output.evaluate("element => element.scrollTop") == 1000


def test_given_a_program_that_is_killed_when_it_starts_again_then_the_page_said_so_and_comes_back_by_itself(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    before = hivebus.submit("echo", "before")
    expect(opened.row(before)).to_contain_text("completed")
    assert opened.errors == []

    hivebus.kill()
    expect(page.locator("#lost-why")).to_contain_text("Lost the server at")
    expect(page.locator("#lost-why")).to_contain_text("no connection; the program has stopped")
    expect(page.locator("#lost-next")).to_contain_text("Next try in")
    expect(page.locator("#link")).to_have_text("no server")
    broker = page.locator('#status div:has(dt:text-is("Broker")) .unknown')
    expect(broker).to_have_attribute("title", "the server does not answer")
    expect(opened.row(before)).to_be_visible()

    hivebus.start()
    expect(page.locator("#link")).to_have_text("live", timeout=COMES_BACK_MS)
    expect(page.locator("#lost")).to_be_hidden()
    after = hivebus.submit("echo", "after")
    expect(opened.row(after)).to_contain_text("completed")
    expect(opened.row(before)).to_be_visible()
    assert [error for error in opened.errors if "Failed to load resource: net::ERR_" not in error] == []


def test_given_an_api_that_answers_with_errors_when_the_page_asks_then_it_shows_the_problem_and_the_remedy(
    hivebus: Running, watched: Watched
) -> None:
    data = {
        "status": 503,
        "reason": "The views are being made again.",
        "remedy": "Wait a minute.",
        "code": "rebuilding",
    }
    page = watched.page
    broken = True

    def between(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def asked(message: str | bytes) -> None:
            request = json.loads(message)
            if broken and request["method"] == "task.list":
                error = {"code": -32000, "message": data["reason"], "data": data}
                socket.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}))
            else:
                server.send(message)

        socket.on_message(asked)

    page.route_web_socket(re.compile("/ws"), between)
    page.goto(hivebus.link)
    expect(page.locator("#lost-why")).to_contain_text("The views are being made again. Wait a minute.")
    broken = False
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#lost")).to_be_hidden()


def test_given_an_open_page_when_nothing_happens_then_it_holds_one_socket_and_polls_no_events(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    sent: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))))
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    task_id = hivebus.submit("echo", "told")
    expect(opened.row(task_id)).to_contain_text("completed")
    methods = [json.loads(frame)["method"] for frame in sent]
    assert methods.count("initialize") == methods.count("events/subscribe") == methods.count("event.list") == 1
    assert [url for url in opened.requests if "/api/events" in url or "/api/tasks" in url] == []


def test_given_a_page_that_nobody_looks_at_when_it_is_shown_again_then_it_has_what_happened(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    task_id = hivebus.submit("echo", "unseen")
    hivebus.ended(task_id)
    expect(opened.row(task_id)).to_have_count(0)
    page.evaluate(hide, False)
    expect(opened.row(task_id)).to_contain_text("completed")
    expect(page.locator("#events-rows")).to_contain_text("task.completed")
    ids = page.locator("#events-rows tr").evaluate_all("rows => rows.map(row => row.dataset.key)")
    assert len(set(ids)) == len(ids)
    assert opened.errors == []


def test_given_a_link_that_was_used_when_another_browser_opens_it_then_a_form_says_so_and_takes_the_key(
    hivebus: Running, opened: Watched, browser: Browser
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(hivebus.link)
    expect(page.locator("#door-why")).to_have_text("This link was used already, or is older than an hour.")
    expect(page.locator("#door")).to_contain_text("hivebus key show prints the key")
    assert page.url == f"{hivebus.origin}/"
    expect(page.get_by_label("Key")).to_be_focused()

    page.get_by_label("Key").fill("hive_00000000_" + "x" * 43)
    page.keyboard.press("Enter")
    expect(page.locator("#door-why")).to_have_text("This key is not known here.")
    page.get_by_label("Key").fill(hivebus.key)
    page.keyboard.press("Enter")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#agents-rows tr")).to_have_count(2)
    context.close()

    # A used link does no harm to the browser that has its cookie.
    opened.page.goto(hivebus.link)
    expect(opened.page.locator("#link")).to_have_text("live")
    expect(opened.page.locator("#door")).to_be_hidden()


def test_given_texts_of_ten_thousand_characters_when_the_page_is_as_wide_as_a_phone_then_nothing_sticks_out(
    hivebus: Running, opened: Watched
) -> None:
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 844})
    long = hivebus.submit("sh", "-c", 'echo "$1" >&2; exit 1', "sh", "A" * 10_000, name="W" * 200, retry=ONCE)
    expect(opened.row(long)).to_contain_text("failed")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    opened.row(long).locator("button.name").click()
    expect(page.locator("#task-stderr")).to_contain_text("A" * 10_000)
    body = page.locator("dialog .body")
    assert body.evaluate("element => element.scrollWidth") <= 390
    # What is longer than the phone is reached by scrolling inside the dialog.
    assert body.evaluate("element => element.getBoundingClientRect().bottom") <= 844
    assert opened.errors == []
