"""Opens every page of the built book in headless Chromium, at the width of a desk and of a phone, and lets axe-core look at some.

The book is the newest one under build/*/book; where there is none, it is built from the committed notebooks.
"""

import functools
import http.server
import threading
from pathlib import Path

import pytest

from decoupled_esc.publish import site as publish

pytestmark = pytest.mark.browser

WIDTHS = {"desk": 1280, "phone": 390}


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the built book's pages."""
    built = sorted(publish.ROOT.glob("build/*/book/_build/html/index.html"), key=lambda path: path.stat().st_mtime)
    if built:
        return built[-1].parent
    return publish.build_book(publish.ROOT / "notebooks", tmp_path_factory.mktemp("book")).parent


@pytest.fixture(scope="session")
def address(site):
    """The book's address on a server of this machine, on a port that the system chooses."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *said: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _open(driver, url: str, width: int) -> None:
    """Opens `url` in a window `width` px wide and waits until its pictures are there."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.get_log("browser")  # what the last page said
    driver.get(url)
    driver.execute_async_script(
        "const done = arguments[0];"
        "const wait = [...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); });"
        "Promise.all(wait).then(() => done());"
    )


def _wait(driver, condition, message: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait  # here: without selenium the tests are skipped

    WebDriverWait(driver, 10).until(lambda _: condition(), message)


def _pages(site: Path) -> list[str]:
    """The pages that a reader opens; the index is a redirection to the first of them."""
    pages = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    return [page.as_posix() for page in pages if page.parts[0] not in ("_static", "_sources", "index.html")]


def _unfolds(driver, page: str) -> None:
    """The first folded code of a chapter opens by a click."""
    folded = driver.find_elements("css selector", "div.cell details.hide")
    assert folded, f"{page} shows no folded code"
    code = folded[0].find_element("css selector", "pre")
    assert not code.is_displayed(), f"{page}: the code is open before the click"
    summary = folded[0].find_element("css selector", "summary")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
    summary.click()
    _wait(driver, code.is_displayed, f"{page}: the code stays folded after the click")  # it fades in


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_every_page_opens_soundly_and_its_folded_code_by_a_click(driver, address, site, width):
    problems, pages = [], _pages(site)
    assert any(page.startswith("notebooks/") for page in pages), "the book has no chapter"
    for page in pages:
        _open(driver, f"{address}/{page}", width)
        problems += [f"{page}: {e['message']}" for e in driver.get_log("browser") if e["level"] == "SEVERE"]
        blank = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.getAttribute('src'))"
        problems += [f"{page}: the picture {source} shows nothing" for source in driver.execute_script(blank)]
        width_of = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
        if (wide := driver.execute_script(f"return {width_of} - innerWidth")) > 0:
            problems.append(f"{page}: is {wide} px wider than the window of {width} px")
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        problems += [f"{page}: loads {name}" for name in loaded if not name.startswith((address, "data:"))]
        if page.startswith("notebooks/"):
            _unfolds(driver, page)
    assert not problems, "\n".join(problems)


KINDS = (
    "book/glossary.html", "book/references.html", "notebooks/00_welcome.html", "notebooks/08_evaluate_systems.html",
    "notebooks/14_measure_preference_bias.html", "notebooks/94_explore_replies.html",
)  # fmt: skip
"""A page of each kind: text, citations, the claim board, wide tables, a slider, an explorer."""


@pytest.mark.parametrize(("width", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_axe_finds_nothing(driver, address, axe, width, scheme):
    problems = []
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for page in KINDS:
        _open(driver, f"{address}/{page}", WIDTHS[width])
        assert driver.execute_script("return document.documentElement.dataset.theme") == scheme
        problems += [f"{page}: {problem}" for problem in axe()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert not problems, "\n".join(problems)


def test_the_book_reads_from_the_disk(driver, site):
    """Without a server, pages, styles and pictures are the same; the index leads to the first page."""
    driver.get_log("browser")
    _open(driver, (site / "index.html").as_uri(), WIDTHS["desk"])
    _wait(driver, lambda: not driver.current_url.endswith("index.html"), "the index leads nowhere")
    _wait(driver, lambda: driver.find_elements("css selector", "article h1"), "the first page does not load")
    assert driver.find_element("css selector", "article h1").is_displayed()
    assert [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
