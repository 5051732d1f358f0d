"""What several test files stand on."""

import shutil

import pytest

from decoupled_esc import models
from decoupled_esc.corpus import read_raw
from decoupled_esc.corpus.split import MANIFEST


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer of 400 entries, trained on the miniature corpus."""
    dialogues, _ = read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")
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
