"""The drawing that grows: it is the tree of its examples, small enough for a page, and still where that is asked for."""

import re
from xml.etree import ElementTree

import pytest
from turn_trees import Example, pack

from decoupled_esc.present.growing_tree import WIDTH, GrowingTree, branches, reading_order

WORDS = [f"word{n}" for n in range(12)] + ["<b>&", "→", "Question", "■"]
EXAMPLES = [Example("turn 1", [0, 1, 2, 13], [[14, 15]]), Example("turn 2", [0, 1, 2, 3, 4, 5, 12, 13], [[14, 14, 15]])]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawing() -> GrowingTree:
    return GrowingTree(EXAMPLES, WORDS, "Two turns, <one> trunk")


@pytest.fixture(scope="module")
def svg(drawing) -> ElementTree.Element:
    return ElementTree.fromstring(drawing._repr_html_())


def test_it_says_what_it_shows_and_takes_the_colour_of_the_text(drawing, svg):
    assert svg.get("role") == "img" and svg.get("aria-label") == "Two turns, <one> trunk"
    assert repr(drawing) == "<GrowingTree Two turns, <one> trunk>"
    style = svg.find(f"{SVG}style").text
    assert "@media(prefers-reduced-motion:reduce){#growing-tree g{animation:none}}" in style
    assert set(re.findall(r"(?:fill|stroke):(\w+)", style)) == {"currentColor", "none"}
    assert "#" not in re.sub(r"#growing-tree", "", drawing._repr_html_()), "no colour of its own"
    assert len(drawing._repr_html_().encode()) < 10_000 and "<script" not in drawing._repr_html_()


def test_every_token_has_its_word_at_its_depth_below_the_one_before_it(svg):
    tree = pack(EXAMPLES)
    above, lanes = branches(tree)
    tokens = [group for group in svg.findall(f"{SVG}g") if group.find(f"{SVG}circle") is not None]
    assert [group.find(f"{SVG}text").text for group in tokens] == [WORDS[token] for token in tree.tokens]
    places = [tuple(float(group.find(f"{SVG}circle").get(name)) for name in ("cx", "cy")) for group in tokens]
    assert len(set(places)) == len(tree)
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert width == WIDTH and all(0 < x < width - 40 and 40 < y < height for x, y in places)
    step = (places[1][0] - places[0][0]) / (tree.depths[1] - tree.depths[0])
    for n, (x, _) in enumerate(places):
        assert x == pytest.approx(places[0][0] + step * tree.depths[n], abs=0.2)
        start, end = re.findall(r"[\d.]+ [\d.]+", tokens[n].find(f"{SVG}path").get("d"))
        assert tuple(map(float, end.split())) == places[n]
        assert tuple(map(float, start.split())) == places[max(above[n], 0)]
        assert (tokens[n].find(f"{SVG}circle").get("class") is None) == (n in tree.predict_positions)
    assert max(lanes) == 1 and lanes.count(0) == max(tree.depths) + 1, "the trunk is the longest way down"


def test_the_second_turn_brings_only_what_the_first_has_not_brought(svg):
    tree = pack(EXAMPLES)
    order = reading_order(tree, branches(tree)[0])
    assert sorted(order) == list(range(len(tree)))
    came = [WORDS[tree.tokens[order.index(n)]] for n in range(len(tree))]
    assert came == ["word0", "word1", "word2", "→", "Question", "word3", "word4", "word5", "<b>&", "→", "Question", "Question"]
    delays = [int(group.get("style").removeprefix("--n:")) for group in svg.findall(f"{SVG}g")]
    assert delays == [*order, len(tree)] and max(delays) * 0.12 < 5, "what moves for longer needs a way to stop it"
    assert svg.findall(f"{SVG}g")[-1].find(f"{SVG}text").text == "12 tokens are read here; 15 in a row for each turn"
