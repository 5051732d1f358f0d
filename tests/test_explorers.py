"""Views of replies and of the report, and a search step by step: what they hold, and how they answer in a browser."""

import csv
import io
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from decoupled_esc.experiments.replies import PlannedReply, Replies, SystemReply
from decoupled_esc.present import explorers, stepper
from decoupled_esc.present.tables import LINE
from decoupled_esc.search.tree import Tree
from decoupled_esc.taxonomy import STRATEGIES

STATIC = Path(explorers.__file__).parents[3] / "book" / "_static"
MARKUP = "<img src=x onerror='alert(1)'> & \"more\""
IDS = [f"esconv/{dialogue:04d}/{turn:02d}" for dialogue in range(6) for turn in range(1, 8, 2)]
GOLD = "01234567" * 3
SCORES = [math.log(p) for p in (0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01)]


def answered(kind, name) -> Replies:
    """Replies to `IDS`, in another order: ``kind`` is a place of the eight for all turns, "gold", or None."""
    rows = []
    for id, gold in reversed(list(zip(IDS, GOLD, strict=True))):
        strategy = None if kind is None else STRATEGIES[int(gold) if kind == "gold" else kind]
        if kind == "gold":
            rows.append(PlannedReply(id, strategy, strategy, SCORES, f"{name} {id} {MARKUP}", 3, True))
        else:
            rows.append(SystemReply(id, strategy, f"{name} {id} {MARKUP}", 3, True))
    return Replies(len(rows), 0, 0, 0, tuple(rows))


SYSTEMS = {"oracle": answered("gold", "oracle"), "asker": answered(0, "asker"), "silent": answered(None, "silent")}


def lines() -> pd.DataFrame:
    """A report of six cells."""
    table, settings = "decoupledesc/table-3", "decoupledesc/table-7"
    rows = [
        (table, "qwen2.5-7b/vanilla/sft", "B-1", 15.61, 12.345, 11.9, 12.71, "differs", "same direction", MARKUP, "a"),
        (table, "llama3.1-8b/vanilla/sft", "B-1", 15.75, 12.345, 11.9, 12.71, "within the interval", None, None, "a"),
        (table, "qwen2.5-7b/vanilla/sft", "Emp", 2.29, None, None, None, "not attempted", None, "needs an LLM judge", "b"),
        ("decoupledesc/table-6", "Overall", "number", 14763, 828, None, None, "differs", None, None, "c"),
        (settings, "qwen2.5-7b/vanilla-dpo", "lr", 5e-7, None, None, None, "taken from the paper", None, None, "d"),
        ("cso/table-1", "empathy", "win", 1.0, None, None, None, "not attempted", None, "people's judgements", "e"),
    ]
    frame = pd.DataFrame(rows, columns=LINE)
    first = {id: next(iter(explorers.load_tables()[id].columns)).key for id in ("cso/table-1", settings)}
    frame["column"] = [first.get(row.table, row.column) for row in frame.itertuples()]
    return frame


def shown() -> dict[str, explorers.Explorer]:
    return {
        "replies": explorers.replies(SYSTEMS, GOLD), "report": explorers.report(lines(), MARKUP), "search": stepper.search(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", shown())
def test_the_page_holds_the_data_as_text_and_xml_and_the_same_each_time(kind):
    one = shown()[kind]
    html = one._repr_html_()
    (box,) = ElementTree.fromstring(f"<p>{html}</p>").iterfind(".//div[@data-explorer]")  # an EPUB takes no other
    assert box.get("data-explorer") == kind and json.loads(box.get("data-rows")) == json.loads(json.dumps(one.data))
    soup = BeautifulSoup(html, "html.parser")
    assert not soup.find(["img", "script"]) and "0x" not in repr(one)
    assert soup.get_text(strip=True), "what is shown without a script"
    assert shown()[kind]._repr_html_() == html


def test_one_turn_of_each_dialogue_whatever_the_order():
    chosen = explorers.one_per_dialogue(IDS)
    assert [id.rpartition("/")[0] for id in chosen] == [f"esconv/{n:04d}" for n in range(6)]
    assert explorers.one_per_dialogue(IDS[::-1]) == chosen
    assert len({id[-2:] for id in chosen}) > 1, "not always the same place of a dialogue"


def test_replies_stand_beside_the_gold_strategy_of_their_turn():
    data = explorers.replies(SYSTEMS, GOLD).data
    assert len(data["turns"]) == 6 and data["systems"] == list(SYSTEMS)
    for id, gold, place, length, stage, (oracle, asker, silent) in data["turns"]:
        assert (int(GOLD[IDS.index(id)]), 2 * place - 1, length) == (gold, int(id[-2:]), 4)
        assert stage == {1: 0, 2: 2, 3: 3, 4: 5}[place]
        assert oracle == [gold, f"oracle {id} {MARKUP}", [50, 20, 10, 10, 5, 3, 1, 1]]
        assert asker[0] == 0 and silent[0] == -1 and asker[2] == silent[2] == []
    with pytest.raises(ValueError, match="not of the same turns"):
        explorers.replies(SYSTEMS, GOLD[1:])
    fewer = Replies(1, 0, 0, 0, SYSTEMS["asker"].rows[:1])
    with pytest.raises(ValueError, match="not of the same turns"):
        explorers.replies(SYSTEMS | {"fewer": fewer}, GOLD)


def test_the_report_prints_at_the_papers_precision_and_falls_back_on_what_was_measured():
    one = explorers.report(lines(), "Measured cells.")
    cells = {name: rows for _, name, _, rows in one.data["tables"]}
    assert cells["Table 3 of DecoupledESC"][0] == [
        "qwen2.5-7b", "Vanilla · SFT", "BLEU-1", "15.61", "12.35", "11.90", "12.71", "differs", "same direction", 0,
    ]  # fmt: skip
    assert cells["Table 6 of DecoupledESC"][0][3:7] == ["14763", "828", "", ""]
    assert cells["Table 7 of DecoupledESC"][0][3:] == ["5e-07", "", "", "", "taken from the paper", "", -1]
    assert one.data["why"] == [MARKUP, "needs an LLM judge", "people's judgements"]
    body = BeautifulSoup(one.fallback, "html.parser").tbody
    assert [row.find_all("td")[-2].text for row in body.find_all("tr")] == ["differs", "within the interval", "differs"]
    assert repr(one) == "<Explorer of 6 cells, 3 of them measured>"
    both = explorers.report(lines(), "Measured cells.", {"Other": lines().iloc[:2].assign(measured=[13.0, None], low=[12.5, None], high=[13.5, None])})
    told = [cell[10:] for _, _, _, rows in both.data["tables"] for cell in rows]
    assert told[0] == ["Other 13.00 [12.50, 13.50], differs"] and not any(told[1:]), "told of the cell that it measured alone"
    assert both.fallback == one.fallback


# --- The search, step by step ---


@pytest.fixture(scope="module")
def steps() -> list[stepper.Step]:
    return stepper.record(Tree(stepper.GOLD, stepper.STRATEGIES, stepper.CONSTANTS))


def test_recording_changes_nothing(steps):
    tree = Tree(stepper.GOLD, stepper.STRATEGIES, stepper.CONSTANTS)
    while not tree.finished:
        for task in tree.ask():
            tree.tell(task.id, stepper.answer(task))
    assert {n.id: (n.value, n.visits) for n in tree.nodes()} == {id: found[:2] for id, found in steps[-1].nodes.items()}
    assert [step.phase for step in steps if step.phase == "select"] == ["select"] * stepper.CONSTANTS.max_iterations


def test_each_selection_follows_the_largest_pucb_computed_from_q_and_n(steps):
    weights = [math.exp(score / stepper.CONSTANTS.prior_temperature) for score in stepper.ADVICE]
    for step in (step for step in steps if step.phase == "select"):
        for above, chosen in zip(step.path, step.path[1:]):
            children = {id: found for id, found in step.nodes.items() if id.rpartition(".")[0] == above}
            for id, (q, n, compared) in children.items():
                prior = weights[int(id.rpartition(".")[2])] / sum(weights)
                assert compared == pytest.approx(q + prior * math.sqrt(step.nodes[above][1]) / (1 + n))
            assert chosen == max(children, key=lambda id: children[id][2])
        assert not [id for id in step.nodes if id.rpartition(".")[0] == step.path[-1]], "a leaf"


def test_a_mean_reward_goes_up_to_every_node_of_the_way_and_to_no_other(steps):
    for before, after in zip(steps, steps[1:]):
        if after.phase != "back up":
            continue
        told = float(before.text.rpartition(" ")[2].rstrip("."))
        for id, (q, n, _) in after.nodes.items():
            old_q, old_n, _ = before.nodes[id]
            assert n - old_n == (id in after.path)
            assert n * q - old_n * old_q == pytest.approx(told if id in after.path else 0, abs=0.006)
        assert after.path[0] == "r" and all(low.startswith(f"{high}.") for high, low in zip(after.path, after.path[1:]))


def test_the_drawing_has_a_group_for_every_node_and_no_colour_of_its_own():
    one = stepper.search()
    svg = ElementTree.fromstring(one._repr_html_()).find("{http://www.w3.org/2000/svg}svg")
    groups = list(svg)
    last = one.data["steps"][-1][2]
    assert len(groups) == len(last) and {place for place, *_ in last} == set(range(len(groups)))
    for place, *numbers in last:
        assert [text.text or "" for text in groups[place]][-2:] == numbers
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert width <= 410, "a phone's width, nearly"
    assert all(0 < float(g[1].get("cx")) < width - 60 and 0 < float(g[1].get("cy")) < height for g in groups)
    assert not {"fill", "stroke", "style"} & {name for element in svg.iter() for name in element.attrib}


# --- In a browser, with the book's style and script and none of the theme's ---


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Address of a page with all explorers."""
    style, script = ((STATIC / name).as_uri() for name in ("book.css", "explorers.js"))
    boxes = "".join(f'<h2>{kind}</h2><div class="output text_html">{one._repr_html_()}</div>' for kind, one in shown().items())
    path = tmp_path_factory.mktemp("explorers") / "page.html"
    path.write_text(
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>x</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="{style}">'
        f"<style>:root{{--pst-color-background:#fff}}[data-theme=dark]{{--pst-color-background:#121212;background:#121212;color:#eee}}</style>"
        f'<script defer src="{script}"></script></head><body><main class="bd-article"><h1>x</h1>{boxes}</main></body></html>',
        encoding="utf-8",
    )
    return path.as_uri()


@pytest.fixture
def opened(driver, page):
    """The page, opened anew at a given width; returns a function that runs a script in it."""

    def go(width: int = 1000, theme: str = "light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(page)
        driver.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
        return driver.execute_script

    return go


def choose(driver, kind: str, name: str, text: str) -> str:
    """Choose by keyboard what begins with ``text``, or type it, in a field of a view; returns what its status says."""
    box = f"[data-explorer={kind}] "
    field = driver.find_element("css selector", f"{box}[name={name}]")
    field.send_keys(text)
    return driver.find_element("css selector", f"{box}[role=status]").text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1000, 390])
def test_all_open_without_an_error_or_sideways_scrolling_and_take_no_text_for_markup(driver, opened, width):
    driver.get_log("browser")
    run = opened(width)
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert run("return document.querySelectorAll('.explorer-bar').length") == 3
    run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert run("return document.documentElement.scrollWidth - innerWidth") <= 0
    assert run("return document.querySelectorAll('main img').length") == 0
    assert MARKUP in run("return document.querySelector('.explorer-reply').textContent")


@pytest.mark.browser
def test_replies_are_filtered_and_turned_over_by_keyboard(driver, opened):
    run, turns = opened(), explorers.replies(SYSTEMS, GOLD).data["turns"]
    caption = "return document.querySelector('[data-explorer=replies] caption').textContent"
    assert turns[0][0] in run(caption)
    driver.find_elements("css selector", "[data-explorer=replies] .explorer-bar button")[1].send_keys("\n")
    assert turns[1][0] in run(caption)
    asked = [turn for turn in turns if turn[1] == 0]
    assert choose(driver, "replies", "system", "asker") == "6 of 6 turns"
    assert choose(driver, "replies", "agrees", "agree") == f"{len(asked)} of 6 turns"
    run("document.querySelector('[data-explorer=replies] form').reset()")
    assert choose(driver, "replies", "gold", STRATEGIES[turns[2][1]]) == f"{sum(t[1] == turns[2][1] for t in turns)} of 6 turns"
    assert choose(driver, "replies", "differ", "one") == "0 of 6 turns"
    assert run("return document.querySelector('[data-explorer=replies] table')") is None


@pytest.mark.browser
def test_cells_are_filtered_walked_through_by_arrows_and_saved(driver, opened):
    run = opened()
    assert choose(driver, "report", "verdict", "differs") == "2 of 6 cells"
    tile = "[data-explorer=report] .explorer-tiles button"
    first = next(one for one in driver.find_elements("css selector", tile) if one.is_displayed())
    assert first.text == "≠⇉", "verdict and direction are signs, whatever the colour"
    first.send_keys("\ue014")  # right
    said = "return document.querySelector('[data-explorer=report] .explorer-said').textContent"
    assert run(said) == "Table 6 of DecoupledESC · Overall · Number: reported 14763, ours 828; differs."
    run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp', bubbles: true}))")
    assert run(said).endswith(f"ours 12.35 [11.90, 12.71]; differs, direction: same direction. Why: {MARKUP}.")
    assert run(f"return [...document.querySelectorAll('{tile}')].filter(t => t.tabIndex === 0).length") == 1

    run("URL.createObjectURL = blob => { window.saved = blob; return '#'; }")
    driver.find_element("css selector", "[data-explorer=report] .explorer-bar button").click()
    text = driver.execute_async_script("saved.text().then(arguments[0])")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [(row["table"], row["ours"], row["reason"]) for row in found] == [
        ("Table 3 of DecoupledESC", "12.35", MARKUP), ("Table 6 of DecoupledESC", "828", ""),
    ]  # fmt: skip
    run("document.querySelector('[data-explorer=report] form').reset()")
    assert choose(driver, "report", "words", "judge LLAMA") == "0 of 6 cells"
    assert choose(driver, "report", "words", "\b" * 6) == "2 of 6 cells", "words of the reasons, too"


@pytest.mark.browser
def test_the_search_goes_on_and_back_by_button_slider_and_arrow(driver, opened):
    run, steps = opened(), stepper.search().data["steps"]
    now = "return document.querySelector('[data-explorer=search] .explorer-said').textContent"
    back, on = driver.find_elements("css selector", "[data-explorer=search] .explorer-button")
    assert run(now) == f"{steps[0][0]}. {steps[0][1]}" and not back.is_enabled()
    groups = "return [...document.querySelectorAll('[data-explorer=search] g')].filter(g => g.getAttribute('display') !== 'none').length"
    assert run(groups) == len(steps[0][2])
    on.click()
    on.send_keys("\ue014")
    assert run(now).startswith(steps[2][0]) and back.is_enabled()
    slider = driver.find_element("css selector", "[data-explorer=search] input")
    slider.send_keys("\ue010")  # end
    assert run(now).startswith(steps[-1][0]) and not on.is_enabled() and run(groups) == len(steps[-1][2])
    slider.send_keys("\ue012")  # left
    assert run(now).startswith(steps[-2][0])


@pytest.mark.browser
@pytest.mark.parametrize(("width", "theme"), [(1000, "light"), (390, "dark")])
def test_axe_finds_nothing(driver, opened, axe, width, theme):
    run = opened(width, theme)
    run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert axe() == []
