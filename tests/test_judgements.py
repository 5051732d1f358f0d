"""Published judgements: readers on small invented files of the same form, agreement against peers, baselines by hand."""

import csv
import io
import json
import os
import re
import zipfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import openpyxl
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from decoupled_esc.corpus import fetch, judgements
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.judgements import ATTRIBUTES, BOTS, JUDGES, SAMPLES, WRITERS, Chat, Rating
from decoupled_esc.evaluate import agreement
from decoupled_esc.evaluate import published_judges as judged
from decoupled_esc.evaluate.bootstrap import cluster_weights
from decoupled_esc.experiments import inputs
from decoupled_esc.experiments.agreement import JudgementAgreement, MeasureAgreement
from decoupled_esc.experiments.inputs import ABSENT, Files
from decoupled_esc.pipeline import Missing, attempt
from decoupled_esc.pipeline.store import result_type
from decoupled_esc.present import figures, judge_tables

FEW = {"replicates": 200, "seed": 1}

# --- iEval ---


def person(**ranks) -> dict:
    def chat(bot):
        log = "- I passed!\n- Well done - how\ndo you feel?\n- Great\n- OK"
        return {"chat_log": log, "Rating": ranks.get(bot, 1)}

    return {situation: {bot: chat(bot) for bot in BOTS} for situation in ("positive", "negative")}


def ieval(folder, people):
    path = folder / "ieval_data.json"
    path.write_text(json.dumps(people), encoding="utf-8")
    return path


def test_chats_are_read_with_their_ranks_and_messages_in_turn(tmp_path):
    chats = judgements.read_ieval(ieval(tmp_path, [person(Purple=3), person()]))
    assert len(chats) == 16 and Counter(chat.rank for chat in chats) == {1: 14, 3: 2}
    first = chats[1]
    assert (first.person, first.situation, first.bot, first.rank) == ("0", "positive", "Purple", 3)
    assert first.said == ("I passed!", "Well done - how\ndo you feel?", "Great", "OK")
    assert first.replies == ("Well done - how\ndo you feel?", "OK")


@pytest.mark.parametrize(("where", "value", "says"), [
    ("Rating", 4, "person 0, negative, Pink, Rating: expected 1 to 3, got 4"),
    ("Rating", True, "Rating: expected 1 to 3, got True"),
    ("Rating", None, "Pink, Rating: expected 1 to 3, got None"),
    ("chat_log", None, "Pink, chat_log: missing or not text"),
    ("chat_log", "nobody spoke", "Pink, chat_log: expected messages of both"),
])  # fmt: skip
def test_odd_chats_are_refused(tmp_path, where, value, says):
    odd = person()
    odd["negative"]["Pink"][where] = value
    with pytest.raises(CorpusError, match=f"ieval_data.json.*{says}.*decoupled-esc data fetch ieval"):
        judgements.read_ieval(ieval(tmp_path, [odd]))


@pytest.mark.parametrize("people", [{}, ["x"], [{"positive": []}], [{"positive": {"Pink": 1}}]])
def test_a_file_of_another_form_is_refused(tmp_path, people):
    with pytest.raises(CorpusError, match="ieval_data.json"):
        judgements.read_ieval(ieval(tmp_path, people))


# --- Empathic judges ---

DIMENSIONS = {"Lend an Ear": ["advice"], "Perceived Empathy": ["seen", "heard"], "EmpatheticDialogues": ["empathy"], "EPITOME": ["level"]}


def empathic(folder, change=lambda table: None, header=None):
    """Two conversations a sample, three raters, 1 throughout; ``change`` alters the lines in place."""
    own, table = [], [[] for _ in range(6)]
    for sample, dimensions in DIMENSIONS.items():
        own += [SAMPLES[sample][0], *dimensions, "annotation_method", "Unnamed: 0"]
        for number, line in enumerate(table):
            line += [f"{sample[0]}{number % 2}", *["1.0"] * len(dimensions), ["expert1", "llm", "experts"][number // 2], ""]
    change(table)
    path = folder / "combined.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header or own, *table])
    return path


def test_annotations_side_by_side_are_taken_apart(tmp_path):
    found = judgements.read_empathic(empathic(tmp_path, lambda table: table[2].__setitem__(1, "")))
    assert len(found.rows) == 6 * 5 - 1 and found.left_out == {"empty cell": 1}
    assert {row.rater for row in found.rows} == {"expert1", "Gemini", "experts"} and {row.value for row in found.rows} == {1}
    assert {(row.sample, row.dimension) for row in found.rows} == {(s, d) for s, ds in DIMENSIONS.items() for d in ds}
    assert found.rows[0] == Rating("Lend an Ear", "L0", "", "advice", "expert1", 1.0)


@pytest.mark.parametrize(("place", "value", "says"), [
    (1, "5.5", "row 3, advice: expected a number from 1 to 5, got '5.5'"),
    (1, "nan", "row 3, advice"),
    (1, "1e9", "row 3, advice"),
    (2, "somebody", "row 3, lend_an_ear_conversation_id: expected 17 cells, a rater among gpt"),
    (0, "L1", "each once for an id"),
    (0, "", "each once for an id"),
])  # fmt: skip
def test_odd_annotations_are_refused(tmp_path, place, value, says):
    with pytest.raises(CorpusError, match=f"combined.csv.*{says}.*fetch empathic_judges"):
        judgements.read_empathic(empathic(tmp_path, lambda table: (table[2].__setitem__(place, value), table[3])))


def test_other_tables_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="row 6.*expected 17 cells"):
        judgements.read_empathic(empathic(tmp_path, lambda table: table[5].pop()))
    with pytest.raises(CorpusError, match="header: lacks 'lend_an_ear_conversation_id'"):
        judgements.read_empathic(empathic(tmp_path, header=["id"]))
    (tmp_path / "combined.csv").write_text("")
    with pytest.raises(CorpusError, match="header: lacks"):
        judgements.read_empathic(tmp_path / "combined.csv")


# --- MentalAlign ---

ALL = dict.fromkeys(ATTRIBUTES, 3)
NAMES = ("Human_judge", "claude_llm_judge", "gemini_llm_judge", "gpt-4o_llm_judge", "o4-mini_llm_judge")


def sheet(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def rows_of(posts=("I am <sad>", "Why?"), **cells):
    """Header and rows; ``cells``: column letters and number of the row -> another cell."""
    table = [["ConvID", "context", *(f" x_response_{name}" for name in WRITERS)]]
    table += [[number, post, *[json.dumps(ALL)] * len(WRITERS)] for number, post in enumerate(posts, start=1)]
    for place, value in cells.items():
        table[int(place[1]) - 1][ord(place[0]) - 65] = value
    return table


def mentalalign(folder, **tables):
    return [sheet(folder / f"{name}.xlsx", tables.get(rater, rows_of()))
            for rater, name in zip(("experts", "claude", "gemini", "gpt", "o4"), NAMES, strict=True)]  # fmt: skip


def test_replies_of_all_writers_are_read_and_what_is_left_out_is_counted(tmp_path):
    found = judgements.read_mentalalign(mentalalign(tmp_path))
    assert len(found.rows) == 5 * 2 * 10 * 7 and found.left_out == {}
    assert found.rows[0] == Rating("MentalAlign", "1", "human", "Guidance", "experts", 3.0)
    assert {row.writer for row in found.rows} == {*WRITERS.values()} and {row.rater for row in found.rows} == {*JUDGES}
    fenced = "Here:\n```json\n" + json.dumps(ALL | {"Safety": 5, "Explanation": 'a "Safety" issue: 1'}, indent=2) + "\n```"
    curly = re.sub(r'"(\w+)"', "“\\1”", json.dumps(ALL))
    found = judgements.read_mentalalign(mentalalign(
        tmp_path, experts=rows_of(C2=json.dumps(ALL | {"Empathy": None, "Safety": 6}), D3=""),
        claude=rows_of(C2=fenced, D2=curly, E2="I cannot", F2=json.dumps(ALL | {"Guidance": 4.5})),
        gemini=rows_of(posts=("I am <sad>", "another post")), gpt=rows_of(posts=("“I am sad”"[1:-1], "Why")),
    ))  # fmt: skip
    assert found.left_out == {
        "experts: no rating": 1 + 7, "experts: 6, not 1 to 5": 1, "Claude: no rating": 7, "Claude: 4.5, not 1 to 5": 1,
        "Gemini: another post than the experts'": 70,
    }  # fmt: skip
    assert len(found.rows) == 700 - sum(found.left_out.values())
    [safety] = [r.value for r in found.rows if (r.rater, r.conversation, r.writer, r.dimension) == ("Claude", "1", "human", "Safety")]
    assert safety == 5


@pytest.mark.parametrize(("table", "says"), [
    (rows_of(C1="response of nobody"), "gemini_llm_judge.xlsx, field row 1: expected columns ConvID, context"),
    (rows_of(A1="id"), "row 1: expected columns"),
    (rows_of(A3=1), "row 3, ConvID: expected a number of its own, got '1'"),
    (rows_of(A2=""), "row 2, ConvID: expected a number of its own, got ''"),
    ([], "row 1: expected columns ConvID, context"),
])  # fmt: skip
def test_odd_sheets_are_refused(tmp_path, table, says):
    with pytest.raises(CorpusError, match=f"{says}.*decoupled-esc data fetch mentalalign"):
        judgements.read_mentalalign(mentalalign(tmp_path, gemini=table))


@pytest.mark.parametrize("damage", ["text", "no sheet", "truncated", "no xml"])
def test_a_damaged_spreadsheet_is_named(tmp_path, damage):
    paths = mentalalign(tmp_path)
    whole, path = paths[0].read_bytes(), paths[0]
    if damage in ("text", "truncated"):
        path.write_bytes(b"ConvID,context" if damage == "text" else whole[: len(whole) // 2])
    else:
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                if "sheet1.xml" not in name:
                    new.writestr(name, old.read(name))
                elif damage == "no xml":
                    new.writestr(name, "<a")
    with pytest.raises(CorpusError, match=r"Human_judge\.xlsx, field sheet 1: cannot be read as a spreadsheet"):
        judgements.read_mentalalign(paths)


# --- Agreement ---


def sampled(size=80, clusters=20, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 6, size)
    b = np.clip(a + rng.integers(-2, 3, size), 1, 5)
    return a, b, rng.integers(0, clusters, size)


def test_both_coefficients_equal_those_of_peers_on_the_data_and_on_each_replicate():
    a, b, cluster = sampled()
    weights = cluster_weights(20, 10, 3)
    crossed = judged.Crossed(a, b, cluster, 20)
    for row, kappa, rank in zip(weights, crossed.kappa(weights), crossed.rank_correlation(weights), strict=True):
        x, y = (np.repeat(of, row[cluster]) for of in (a, b))
        assert kappa == pytest.approx(cohen_kappa_score(x, y, weights="quadratic", labels=range(1, 6)))
        assert rank == pytest.approx(spearmanr(x, y)[0])
    ours = agreement.weighted_kappa(a, b, cluster.tolist(), labels=range(1, 6), replicates=10, seed=3).value
    assert crossed.kappa(np.ones((1, 20)))[0] == pytest.approx(ours)


def test_means_of_a_crowd_need_no_rounding():
    a, b, cluster = sampled()
    b = b + np.random.default_rng(4).choice([0, 1 / 3, 0.5], len(b))
    found = judged.Crossed(a, b, cluster, 20).kappa(np.ones((1, 20)))[0]
    apart = np.subtract.outer(a, b) ** 2
    assert found == pytest.approx(1 - np.mean((a - b) ** 2) / apart.mean())


def ratings(raters, conversations=40, dimensions=("one", "two"), rng=None):
    """``raters``: rater -> function of a conversation's number and generator."""
    rng = rng or np.random.default_rng(5)
    return [
        Rating("S", f"c{number}", "", dimension, rater, float(give(number, rng)))
        for dimension in dimensions for number in range(conversations) for rater, give in raters.items()
    ]  # fmt: skip


LIKE_EXPERTS = dict.fromkeys((*judgements.EXPERTS, "experts"), lambda number, rng: number % 5 + 1)


def by_raters(rows):
    return {row.raters: row for row in rows}


def test_equal_raters_agree_and_random_ones_do_not():
    table = judged.expert_agreement(
        ratings({**LIKE_EXPERTS, "copy": lambda n, rng: n % 5 + 1, "random": lambda n, rng: rng.integers(1, 6),
                 "kind": lambda n, rng: min(5, n % 5 + 2)}), {"empty": 2}, **FEW,
    )  # fmt: skip
    medians = by_raters(table.medians)
    assert [*medians] == ["expert–expert", "copy–expert", "random–expert", "kind–expert"] and table.left_out == {"empty": 2}
    for found in (medians["copy–expert"].kappa, medians["copy–expert"].rank, medians["expert–expert"].each):
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert medians["copy–expert"].items == 80 and medians["copy–expert"].dimension == "median of 2"
    for row in (medians["random–expert"], *(row for row in table.rows if row.raters == "random–expert")):
        for found in (row.kappa, row.rank, row.each):
            assert found.low < 0 < found.high
    assert medians["kind–expert"].kappa.value < 0.9 < medians["kind–expert"].rank.value


def test_an_interval_of_random_raters_holds_zero_as_often_as_it_says():
    hits = []
    for seed in range(60):
        rows = ratings({"experts": lambda n, rng: rng.integers(1, 6), "judge": lambda n, rng: rng.integers(1, 6)},
                       dimensions=("one",), rng=np.random.default_rng(seed))  # fmt: skip
        [row] = judged.expert_agreement(rows, {}, replicates=300, seed=seed).rows
        hits.append(row.kappa.low <= 0 <= row.kappa.high)
    assert np.mean(hits) >= 0.88


def test_agreement_between_experts_is_the_mean_over_pairs_and_the_median_over_dimensions_has_an_interval():
    rng = np.random.default_rng(6)
    rows = ratings({name: lambda n, rng: np.clip(n % 5 + 1 + rng.integers(-1, 2), 1, 5) for name in (*judgements.EXPERTS, "experts")},
                   dimensions=("one", "two", "three"), rng=rng)  # fmt: skip
    table = judged.expert_agreement(rows, {}, **FEW)
    value = {(r.dimension, r.rater): [] for r in rows}
    for r in rows:
        value[r.dimension, r.rater].append(r.value)
    for row in table.rows:
        pairs = [cohen_kappa_score(np.rint(value[row.dimension, a]).astype(int), np.rint(value[row.dimension, b]).astype(int),
                                   weights="quadratic", labels=range(1, 6)) for a, b in judged.EXPERT_PAIRS]  # fmt: skip
        assert row.kappa.value == pytest.approx(np.mean(pairs)) and row.each == row.kappa
    [median] = table.medians
    assert median.kappa.value == pytest.approx(np.median([row.kappa.value for row in table.rows]))
    assert median.kappa.low < median.kappa.value < median.kappa.high
    assert table == judged.expert_agreement(rows, {}, **FEW)


def test_only_what_both_rated_counts_and_what_is_undefined_is_none():
    rows = ratings({"experts": lambda n, rng: n % 5 + 1, "half": lambda n, rng: n % 5 + 1, "same": lambda n, rng: 4})
    rows = [row for row in rows if row.rater != "half" or int(row.conversation[1:]) % 2]
    found = by_raters(judged.expert_agreement(rows, {}, **FEW).rows)
    assert found["half–expert"].items == 20 and found["half–expert"].each is None
    assert found["same–expert"].rank is None and found["same–expert"].kappa.value == pytest.approx(0)
    none = ratings({"experts": lambda n, rng: 4, "same": lambda n, rng: 4})
    table = judged.expert_agreement(none, {}, **FEW)
    assert (table.rows[0].kappa, table.medians[0].kappa) == (None, None)
    assert table.medians[0].dimension == "median of 0, 2 undefined"
    with pytest.raises(ValueError, match="rated c0  twice on one"):
        judged.expert_agreement([*rows, rows[0]], {}, **FEW)
    apart = [r for r in rows if r.rater == "experts" and r.conversation == "c0"] + [r for r in rows if r.rater == "half"]
    with pytest.raises(ValueError, match="half and experts rated nothing in common"):
        judged.expert_agreement(apart, {}, **FEW)


# --- Pairwise preference ---


def chat(person, bot, words, rank, situation="positive", own=1):
    return Chat(person, situation, bot, (" ".join(["w"] * own), " ".join(["w"] * words)), rank)


def test_rules_are_scored_on_untied_pairs_by_hand():
    chats = []
    for person in "ab":  # the longer chat wins 2 of 3 untied pairs of a, and all of b's
        chats += [chat(person, "Pink", 5, 1), chat(person, "Purple", 9, 3), chat(person, "Green", 3 if person == "b" else 9, 1 if person == "b" else 2)]
    chats += [chat("a", "Pink", 1, 3, "negative"), chat("a", "Purple", 2, 3, "negative")]
    found = judged.pair_accuracy(chats, **FEW)
    assert (found.people, found.pairs, found.untied, found.best) == (2, 7, 5, "Purple")
    rules = {rule.rule: rule for rule in found.rules}
    words = rules["more words by the bot"]
    assert words.accuracy.value == pytest.approx(100 * 4.5 / 5) and words.ties == 1, "Purple against Green of a is a tie"
    assert words.without_best.value == pytest.approx(100), "Green against Pink of a"
    # pairs with Pink: 3 of 3; with Purple: 3.5 of 4; with Green: 2.5 of 3
    assert words.new_bot.value == pytest.approx(100 * (1 + 3.5 / 4 + 2.5 / 3) / 3)
    assert rules["more words by the person"].accuracy.value == 50 and rules["more words by the person"].ties == 5
    assert rules["earlier in the file"].accuracy.value == pytest.approx(100 * 2 / 5)
    assert rules[judged.WHICH_BOT].new_bot is None
    with pytest.raises(ValueError, match="no pair of chats with different ranks"):
        judged.pair_accuracy([chat("a", bot, 1, 2) for bot in BOTS], **FEW)


def people(number, better, rng):
    """``better``: (bot, words, generator) -> rank."""
    rows = []
    for person in range(number):
        for bot in BOTS:
            words = int(rng.integers(1, 60))
            rows.append(chat(str(person), bot, words, better(bot, words, rng)))
    return rows


def test_which_bot_it_was_is_learned_from_other_people():
    rng = np.random.default_rng(7)
    liked = judged.pair_accuracy(people(60, lambda bot, words, rng: 3 if bot == "Green" else int(rng.integers(1, 3)), rng), **FEW)
    rules = {rule.rule: rule for rule in liked.rules}
    assert liked.best == "Green" and rules[judged.WHICH_BOT].accuracy.low > 65
    # Everyone has a favourite of their own: a rule that had seen the person would be right, others' means say nothing.
    own = [chat(str(n), bot, 1, 3 if bot == BOTS[n % 4] else 1) for n in range(80) for bot in BOTS]
    learned = {rule.rule: rule for rule in judged.pair_accuracy(own, **FEW).rules}[judged.WHICH_BOT]
    assert learned.accuracy.value <= 50


def test_where_nothing_matters_no_rule_is_better_than_chance():
    holds, better = [], []
    for seed in range(30):
        rows = people(100, lambda bot, words, rng: int(rng.integers(1, 4)), np.random.default_rng(seed))
        rules = {rule.rule: rule.accuracy for rule in judged.pair_accuracy(rows, **FEW).rules}
        # A mean over others is below chance where nothing is to be learned: who is left out pulls it the other way.
        better.append(rules.pop(judged.WHICH_BOT).low > 50)
        holds += [found.low <= 50 <= found.high for found in rules.values()]
    assert np.mean(holds) >= 0.9 and np.mean(better) <= 0.1


def test_the_interval_is_over_people():
    one = people(30, lambda bot, words, rng: 1 + (words > rng.integers(1, 60)), np.random.default_rng(9))
    same = [Chat(c.person, f"{copy}", c.bot, c.said, c.rank) for copy in range(4) for c in one]
    once, often = (judged.pair_accuracy(chats, **FEW).rules[0].accuracy for chats in (one, same))
    assert often.high - often.low == pytest.approx(once.high - once.low), "chats of one person are no new people"


# --- The step and what is shown ---


def step(tmp_path, monkeypatch, present):
    paths = {"ieval": [ieval(tmp_path, [person(Purple=3), person(Pink=2)])], "empathic_judges": [empathic(tmp_path)],
             "mentalalign": mentalalign(tmp_path)}  # fmt: skip
    monkeypatch.setattr(inputs.fetch, "here", lambda name: SimpleNamespace(paths=tuple(paths[name])))
    return MeasureAgreement(*(Files(name, "1" if name in present else ABSENT) for name in paths), **FEW)


def test_the_step_measures_what_is_here_and_says_what_is_not(tmp_path, monkeypatch):
    found = step(tmp_path, monkeypatch, {"ieval", "empathic_judges", "mentalalign"}).run(None)
    assert result_type(MeasureAgreement).validate_python(found) == found
    assert len(found.replies.rows) == 4 * 7 and found.preferences.untied == 12 and len(found.conversations.rows) == 5
    assert "o4-mini–expert" in judge_tables.published_agreement(found).index
    figures.published_judges(found.conversations, found.preferences, "test")
    some = step(tmp_path, monkeypatch, {"ieval"}).run(None)
    assert isinstance(some, JudgementAgreement) and some.replies.reason.startswith("mentalalign is not on this machine")
    assert "empathic_judges is not on this machine" in judge_tables.published_agreement(some).to_string()
    figures.published_judges(some.conversations, some.preferences, "test")
    none = attempt(lambda: step(tmp_path, monkeypatch, set()).run(None))
    assert isinstance(none, Missing) and judge_tables.published_agreement(none) is none


@pytest.mark.skipif("DECOUPLED_ESC_DATA" not in os.environ, reason="needs the published judgements")
def test_the_published_files_give_the_published_numbers():
    paths = {name: fetch.here(name) for name in ("ieval", "empathic_judges")}
    if None in paths.values():
        pytest.skip("DECOUPLED_ESC_DATA holds no judgements")
    found = judged.pair_accuracy(judgements.read_ieval(paths["ieval"].paths[0]), **FEW)
    assert (found.people, found.pairs, found.untied, found.best) == (240, 2880, 2125, "Purple")
    assert found.rules[0].accuracy.value == pytest.approx(73.0, abs=0.2)
    files = {path.name: path for path in paths["empathic_judges"].paths}
    read = judgements.read_empathic(paths["empathic_judges"].paths[0])
    assert len(read.rows) == 8 * 50 * 21 and read.left_out == {}
    given: dict = {}
    for row in read.rows:
        given.setdefault((row.dimension, row.rater), {})[row.conversation] = row.value
    missed = set()
    with files["table_kappa.csv"].open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            pair = [judgements.RATERS[name] for name in re.findall(r"\w+", row["Annotator Pair"])]
            if "crowd" in pair:
                continue  # means of several people, which the table rounds to the scale in a way of its own
            a, b = (given[row["Dimension"], name] for name in pair)
            kappa = judged.Crossed(list(a.values()), [b[key] for key in a], range(50), 50).kappa(np.ones((1, 50)))[0]
            if abs(kappa - float(row["Weighted Cohen's Kappa"])) > 0.0051:
                missed.add((row["Dimension"], *pair))
    # The table's weights skip levels that nobody used.
    assert missed == {("self_oriented", "expert1", "expert2"), ("fluency", "experts", "Gemini")}
