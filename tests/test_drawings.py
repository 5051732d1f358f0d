"""Drawings of the methods: what they say, that every word fits, and that the counts in them are those of the results."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from decoupled_esc import mining
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.present import drawings

SVG = "{http://www.w3.org/2000/svg}"
DIALOGUES = {"train": 1040, "validation": 130, "test": 130}


def mined(turns, plans, replies, coupled):
    """What the step ``pairs`` leaves of samples with their labels, as far as a drawing reads it."""
    of_plans, left_plans = mining.strategy_pairs(turns, [plans])
    of_replies, left_replies = mining.response_pairs(
        turns, [{id: text for id, (text, _) in replies.items()}], [{id: ("None", seen) for id, (_, seen) in replies.items()}]
    )
    of_turns, left_turns = mining.vanilla_pairs(
        turns, [{id: (plan, text) for id, (plan, text, _) in coupled.items()}], [{id: ("None", seen) for id, (*_, seen) in coupled.items()}]
    )
    return SimpleNamespace(
        turns=len(turns), samples={"planner": 1, "generator": 1, "vanilla": 1},
        pairs={"strategy": len(of_plans), "response": len(of_replies), "vanilla": len(of_turns)},
        left={"strategy": left_plans, "response": left_replies, "vanilla": left_turns},
        errors={"response": {label: sum(pair.error == label for pair in of_replies) for label in mining.FILTERED}},
        filters=mining.by_filter(of_turns, judge_names_mismatch=True),
    )  # fmt: skip


TURNS = [Turn(f"d/{n}", "d", (Message("seeker", "Hi."),), "Question", f"Since when, {n}?") for n in range(4)]
IDS = [turn.id for turn in TURNS]
PAIRS = mined(
    TURNS,
    dict(zip(IDS, ("Question", "Others", "Others", "Information"), strict=True)),
    dict(zip(IDS, (("a", "Lack of Empathy"), ("b", "None"), ("c", "Template Response"), ("", "None")), strict=True)),
    dict(zip(IDS, (("Question", "a", "None"), ("Others", "b", "None"), ("Question", "c", "Early Emotion Shift"), ("Others", "d", "Lack of Empathy")), strict=True)),
)
NO_PAIR = mined(TURNS, dict.fromkeys(IDS, "Question"), dict.fromkeys(IDS, ("a", "None")), dict.fromkeys(IDS, ("Question", "a", "None")))
ALL = {
    "pipeline": drawings.pipeline(DIALOGUES, 1792, {"strategy": 10885, "response": 5568, "vanilla": 15941}, 590),
    "nothing searched": drawings.pipeline(DIALOGUES, 1792, PAIRS.pairs, None),
    "paradigms": drawings.paradigms(), "routing": drawings.routing(PAIRS), "no pair": drawings.routing(NO_PAIR), "phases": drawings.search_phases(),
}  # fmt: skip


@pytest.fixture(params=ALL)
def svg(request) -> ElementTree.Element:
    return ElementTree.fromstring(ALL[request.param]._repr_html_())


def test_it_says_what_it_shows_and_has_no_colour_of_its_own(svg):
    said = svg.find(f"{SVG}desc")
    assert svg.get("role") == "img" and svg.get("aria-label") == svg.find(f"{SVG}title").text
    assert svg.get("aria-describedby") == said.get("id") and len(said.text) > 80
    for element in svg.iter():
        assert {element.get("fill"), element.get("stroke")} <= {None, "none", "currentColor"}
    assert len(ElementTree.tostring(svg)) < 15_000


def test_every_word_fits_and_is_large_enough_on_a_phone(svg):
    width, height = map(float, svg.get("viewBox").split()[2:])
    letters = float(re.search(r"font:(\d+)px", svg.get("style"))[1])
    assert letters * (390 - 2 * 16) / width >= 11
    for group in [svg, *svg.iter(f"{SVG}g")]:
        left, top = map(float, re.findall(r"[\d.]+", group.get("transform", "translate(0 0)")))
        for text in group.findall(f"{SVG}text"):
            wide = TextPath((0, 0), text.text, letters, prop=FontProperties(family="DejaVu Sans", weight=int(text.get("font-weight", 400)))).get_extents().x1
            x = left + float(text.get("x")) - (wide / 2 if text.get("text-anchor") == "middle" else 0)
            assert x >= 0 and x + wide <= width and 10 <= top + float(text.get("y")) <= height - 2, text.text


@pytest.mark.parametrize("pairs", [PAIRS, NO_PAIR], ids=["pairs", "no pair"])
def test_every_sample_ends_somewhere_once(pairs):
    found = drawings.flows(pairs)
    assert {role: sum(flow.count for flow in ends) for role, ends in found.items()} == dict.fromkeys(pairs.samples, pairs.turns)
    taught = {role: sum(flow.count for flow in ends if flow.learns) for role, ends in found.items()}
    assert taught == dict(zip(pairs.samples, pairs.pairs.values(), strict=True))
    assert {flow.learns for flow in found["vanilla"]} <= {None, "coupled model"}


def test_bands_are_as_wide_as_their_counts_at_one_scale():
    svg = ElementTree.fromstring(drawings.routing(PAIRS)._repr_html_())
    bands = [float(re.search(r"v([\d.]+)C", path.get("d"))[1]) for path in svg.iter(f"{SVG}path")]
    counts = [flow.count for ends in drawings.flows(PAIRS).values() for flow in ends]
    assert [band / bands[0] for band in bands] == pytest.approx([count / counts[0] for count in counts], rel=0.02)


def test_reasons_of_less_than_a_hundredth_stand_together():
    many = SimpleNamespace(**vars(PAIRS) | {"turns": 1000, "left": PAIRS.left | {"strategy": {"as gold": 995, "no strategy": 2}}, "pairs": PAIRS.pairs | {"strategy": 3}})
    assert [(flow.label, flow.count) for flow in drawings.flows(many)["planner"]] == [("not the gold strategy", 3), ("as gold", 995), ("other reasons", 2)]
