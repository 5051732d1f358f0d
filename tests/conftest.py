"""What several test files stand on."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from decoupled_esc import models
from decoupled_esc.corpus import Dialogue, read_raw
from decoupled_esc.corpus.split import MANIFEST


@pytest.fixture(scope="session")
def dialogues() -> list[Dialogue]:
    """The miniature corpus."""
    return read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")[0]


@pytest.fixture(scope="session")
def tokenizer(dialogues):
    """A tokenizer of 400 entries, trained on the miniature corpus."""
    return models.train_tokenizer((u.text for d in dialogues for u in d.utterances), 400)


FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Debian's Chromium under selenium, with a profile of its own; no name but this machine's resolves."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not chromedriver:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("chromium")
    for flag in [*FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def axe(driver):
    """A function that says what axe-core finds in the page that the browser shows: a line for each element."""
    package = importlib.util.find_spec("axe_core_python")
    if package is None:
        pytest.skip("needs axe-core: pip install axe-core-python")
    script = (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")

    def violations() -> list[str]:
        driver.set_script_timeout(120)
        driver.execute_script(script)
        return driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run({resultTypes: ['violations']}).then(r => done(r.violations.flatMap(v =>"
            " v.nodes.map(n => `${v.id} (${v.impact}): ${n.target.join(' ')}: ${n.html.slice(0, 100)}`))))"
        )

    return violations
