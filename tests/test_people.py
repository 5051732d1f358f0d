"""The human evaluation kit, end to end, with scripted raters whose behaviour is known."""

import csv
import io
import json
import random
import re
import statistics
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupled_esc.corpus import Message
from decoupled_esc.evaluate import Estimate
from decoupled_esc.evaluate.people import (
    CSO_QUALITY,
    CSO_SUPPORT,
    DECOUPLED_ESC,
    Answer,
    Criterion,
    PeopleError,
    Sample,
    Study,
    make_study,
    mean_scores,
    quality,
    read_answers,
    read_key,
    win_rates,
    write_forms,
)

FEW = {"replicates": 200, "seed": 3}
NASTY = 'It is </script><script>alert(1)</script> <b>& "so"\u2028{{form}}'


def samples(number=20, systems=("Decoupled-DPO", "Vanilla-SFT"), per_dialogue=1):
    """Turns of invented talks; a reply is a function of its system and turn, without the system's name."""
    made = []
    for n in range(number):
        dialogue = f"talk/{n // per_dialogue:03}"
        context = (
            Message("seeker", f"Hello, this is worry number {n}."),
            Message("supporter", "What is on your mind?", "Question"),
            Message("seeker", f"I could not sleep for {n + 2} nights."),
        )
        replies = {
            name: f"{['Gently', 'Plainly', 'Warmly'][k]} said, {n + 2} short nights are hard, and you are not alone."
            for k, name in enumerate(systems)
        }
        made.append(Sample(f"{dialogue}/{n:02}", dialogue, context, replies))
    return made


def study(kind="pairs", **changes):
    options = dict(raters=6, items_per_rater=20, attention=3, seed=1) | changes
    return make_study(samples(), DECOUPLED_ESC, kind=kind, **options)


# Scripted raters see what a rater sees: the data inside the page.  They know a system by how its replies begin.


def shown(folder, rater):
    page = (folder / "forms" / f"{rater}.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="form">(.*?)</script>', page, re.S)[1])


def attentive(prefer, rng):
    """Prefers the system whose replies begin with *Gently* with probability ``prefer``, and reads the checks."""

    def choose(item, key):
        one, two = item["replies"]
        if one == two:
            return "tie"
        sound = [text.endswith("alone.") and " said, " in text for text in (one, two)]
        if sound != [True, True]:
            return "1" if sound[0] else "2"
        gentle = "1" if one.startswith("Gently") else "2"
        return gentle if rng.random() < prefer else {"1": "2", "2": "1"}[gentle]

    return choose


def answer_file(form, choose, seconds=30.0, **changes):
    keys = [criterion["key"] for criterion in form["criteria"]]
    rows = [
        {"item": item["item"], "seconds": seconds, "values": {key: choose(item, key) for key in keys}}
        for item in form["items"]
    ]
    return json.dumps({"study": form["study"], "rater": form["rater"], "answers": rows} | changes)


def sheet_rows(folder, rater):
    with open(folder / "forms" / f"{rater}.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def answer_sheet(folder, rater, choose):
    """The rater's sheet with its cells filled in, as rows."""
    form = shown(folder, rater)
    rows = sheet_rows(folder, rater)
    keys = [criterion["key"] for criterion in form["criteria"]]
    for row, item in zip(rows[1:], form["items"]):
        row[-len(keys) :] = [choose(item, key) for key in keys]
    return rows


def as_csv(rows, delimiter=","):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


@pytest.fixture
def made(tmp_path):
    """A study with its forms: (study, folder)."""
    made = study()
    write_forms(made, tmp_path)
    return made, tmp_path


def put(folder, name, text):
    (folder / "answers" / name).write_text(text, encoding="utf-8")


# Design -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 24), st.integers(1, 9), st.integers(1, 24), st.integers(0, 5), st.integers(0, 99),
    st.sampled_from(["pairs", "scores"]),
)  # fmt: skip
def test_a_study_is_balanced(number, raters, items_per_rater, attention, seed, kind):
    systems = ("A", "B") if kind == "pairs" else ("A", "B", "C")
    items_per_rater = min(items_per_rater, number if kind == "pairs" else 3 * number)
    made = make_study(
        samples(number, systems), CSO_QUALITY, kind=kind, raters=raters, items_per_rater=items_per_rater,
        attention=attention, seed=seed,
    )  # fmt: skip
    items = {item.id: item for item in made.items}
    assert len(items) == len(made.items) and made.systems == systems
    per_item = Counter()
    sides = {item.id: [] for item in made.items}
    for form in made.forms.values():
        assert len({show.item for show in form}) == len(form) == items_per_rater + attention
        mine = [show for show in form if not items[show.item].attention]
        assert len(mine) == items_per_rater
        per_item.update(show.item for show in mine)
        if kind == "pairs":
            assert abs(2 * sum(show.swapped for show in mine) - len(mine)) <= 1
        else:
            of_system = Counter(items[show.item].systems for show in mine)
            assert max(of_system.values()) - min(of_system[(name,)] for name in systems) <= 1
        for show in mine:
            sides[show.item].append(show.swapped)
        checks = [show for show in form if items[show.item].attention == "shuffled"]
        if kind == "pairs":
            assert abs(2 * sum(show.swapped for show in checks) - len(checks)) <= 1
    judged = [item.id for item in made.items if not item.attention]
    assert max(per_item.values()) - min(per_item[item] for item in judged) <= 1
    if kind == "pairs":
        assert all(abs(2 * sum(swapped) - len(swapped)) <= 1 for swapped in sides.values())
    for item in made.items:
        assert len(item.replies) == (2 if kind == "pairs" else 1)
        if item.attention == "same":
            assert item.replies[0] == item.replies[1]
        elif item.attention:
            assert item.replies[-1] not in {reply for s in samples(number, systems) for reply in s.replies.values()}
    assert Study.from_json(made.to_json()) == made


def test_the_same_seed_makes_the_same_study():
    assert study(seed=4).to_json() == study(seed=4).to_json() != study(seed=5).to_json()
    assert study(seed=4).id == Study.from_json(study(seed=4).to_json()).id != study(seed=5).id


def test_every_form_has_its_own_order():
    assert len({tuple(show.item for show in form) for form in study().forms.values()}) == 6


def test_checks_go_to_samples_that_the_rater_does_not_judge():
    made = study(items_per_rater=10)
    items = {item.id: item for item in made.items}
    for form in made.forms.values():
        seen = Counter(items[show.item].sample for show in form)
        assert max(seen.values()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(samples=[]), "0, 4, 6"),
        (dict(raters=0), "4, 0"),
        (dict(kind="triples"), "not 'triples'"),
        (dict(items_per_rater=21), "items_per_rater is 21, and there are 20 items"),
        (dict(samples=[*samples(), samples()[0]]), "sample 'talk/000/00' occurs twice"),
        (dict(criteria=[*DECOUPLED_ESC, DECOUPLED_ESC[0]]), "criterion 'fluency' occurs twice"),
        (dict(samples=samples(20, ("A", "B", "C"))), "pairs need two systems"),
        (dict(samples=[*samples(19), replace(samples()[19], replies={"A": "", "B": ""})]), "'talk/019/19' has replies"),
        (dict(samples=samples(20, per_dialogue=20)), "from another dialogue; add samples, or set attention to 0"),
        (dict(kind="scores", scale=(3, 3)), "the scale must rise"),
    ],
)
def test_what_makes_no_study_is_refused(change, message):
    fields = dict(
        samples=samples(), criteria=DECOUPLED_ESC, kind="pairs", raters=6, items_per_rater=20, attention=3, seed=0
    )
    with pytest.raises(PeopleError, match=message):
        make_study(**fields | change)


# Forms --------------------------------------------------------------------------------------------------------------


def test_forms_are_blind(made):
    made_study, folder = made
    files = list((folder / "forms").iterdir())
    assert len(files) == 2 * 6 + 1
    for path in files:
        text = path.read_text(encoding="utf-8")
        for secret in ("Decoupled-DPO", "Vanilla-SFT", "talk/0", "attention", "swapped", "shuffled"):
            assert secret not in text, f"{path.name} says {secret!r}"
    form = shown(folder, "rater-1")
    assert form.keys() == {"study", "rater", "kind", "choices", "notice", "criteria", "items"}
    assert {key for item in form["items"] for key in item} == {"item", "context", "replies"}
    assert "Question" not in json.dumps(form)  # nor the strategies of the context
    assert read_key(folder / "key.json") == made_study


def test_a_page_loads_nothing(made):
    page = (made[1] / "forms" / "rater-1.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_texts_can_not_leave_the_page_or_the_sheet(tmp_path):
    replies, context = {"A": NASTY, "B": "=HYPERLINK(1)"}, (Message("seeker", NASTY),)
    nasty = [replace(sample, replies=replies, context=context) for sample in samples(4)]
    made = make_study(nasty, DECOUPLED_ESC, kind="pairs", raters=1, items_per_rater=4, attention=0, seed=0)
    write_forms(made, tmp_path)
    page = (tmp_path / "forms" / "rater-1.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<script>alert" not in page
    texts = {text for item in shown(tmp_path, "rater-1")["items"] for text in item["replies"]}
    assert texts == {NASTY, "=HYPERLINK(1)"}
    rows = sheet_rows(tmp_path, "rater-1")
    assert len(rows) == 5 and not any(cell.startswith("=") for row in rows for cell in row)


def test_a_key_is_never_overwritten_by_another_study(made):
    made_study, folder = made
    write_forms(made_study, folder)
    with pytest.raises(PeopleError, match="key.json: belongs to another study"):
        write_forms(study(seed=2), folder)
    (folder / "key.json").write_text("{}")
    with pytest.raises(PeopleError, match="is not the key of a study"):
        read_key(folder / "key.json")
    with pytest.raises(PeopleError, match="none.json: there is no such file; use"):
        read_key(folder / "none.json")


# Answers ------------------------------------------------------------------------------------------------------------


def test_page_and_sheet_say_the_same(made):
    made_study, folder = made
    # One preference per item and criterion, whoever asks: the two ways of answering can be compared.
    said = {(i["item"], c.key): random.Random(i["item"] + c.key).choice(["1", "tie", "2"])
            for i in shown(folder, "rater-1")["items"] for c in DECOUPLED_ESC}  # fmt: skip
    choose = lambda item, key: said[item["item"], key]  # noqa: E731
    put(folder, "a.json", answer_file(shown(folder, "rater-1"), choose, seconds=12))
    page = read_answers(folder / "answers", made_study)
    (folder / "answers" / "a.json").unlink()
    swapped = {show.item: show.swapped for show in made_study.forms["rater-1"]}
    assert [answer.item for answer in page] == [show.item for show in made_study.forms["rater-1"]]
    for answer in page:
        for key, value in answer.values.items():
            number = {"1": 1, "tie": 0, "2": -1}[said[answer.item, key]]
            assert value == (-number if swapped[answer.item] else number)
    for delimiter in ",;\t":
        rows = answer_sheet(folder, "rater-1", lambda item, key: choose(item, key).upper() + " ")
        put(folder, "a.csv", "\ufeff" + as_csv([*rows, [""] * len(rows[0])], delimiter))
        sheet = read_answers(folder / "answers", made_study)
        assert sheet == [replace(answer, seconds=None) for answer in page]


def test_scores_round_trip(tmp_path):
    made = make_study(
        samples(), CSO_SUPPORT, kind="scores", raters=2, items_per_rater=10, attention=1, seed=0, scale=(0, 4)
    )
    write_forms(made, tmp_path)
    assert shown(tmp_path, "rater-1")["choices"] == ["0", "1", "2", "3", "4"]
    put(tmp_path, "1.json", answer_file(shown(tmp_path, "rater-1"), lambda item, key: "3"))
    put(tmp_path, "2.csv", as_csv(answer_sheet(tmp_path, "rater-2", lambda item, key: "4.0")))
    answers = read_answers(tmp_path / "answers", made)
    assert {(a.rater, value) for a in answers for value in a.values.values()} == {("rater-1", 3), ("rater-2", 4)}


def test_partial_answers_are_kept_and_copies_joined(made):
    made_study, folder = made
    form = shown(folder, "rater-1")
    whole = json.loads(answer_file(form, lambda item, key: "1"))
    early = {**whole, "answers": [dict(row, seconds=5) for row in whole["answers"][:7]]}
    early["answers"][6]["values"] = {"fluency": "1"}
    put(folder, "early.json", json.dumps(early))
    answers = read_answers(folder / "answers", made_study)
    assert len(answers) == 7 and answers[6].values.keys() == {"fluency"}
    assert quality(made_study, answers)["rater-1"].answered == 6
    for name in ("late.json", "late (1).json"):
        put(folder, name, json.dumps(whole))
    joined = read_answers(folder / "answers", made_study)
    assert len(joined) == 23 and {answer.seconds for answer in joined} == {30}
    assert all(len(answer.values) == 4 for answer in joined)
    sheet = answer_sheet(folder, "rater-2", lambda item, key: "tie" if key == "empathy" else "")
    sheet[1][-4:] = [""] * 4
    put(folder, "two.csv", as_csv(sheet))
    of_two = [a for a in read_answers(folder / "answers", made_study) if a.rater == "rater-2"]
    assert len(of_two) == 22 and all(a.values == {"empathy": 0} and a.seconds is None for a in of_two)


def edited(**changes):
    """A change of the third answer in a file of the page."""

    def edit(told):
        told["answers"][2].update(changes)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(values={"fluency": "3"}), r"bad.json, answer 3, field fluency: '3' is not one of 1, tie, 2; ask"),
        (edited(values={"charm": "1"}), "answer 3, field charm: is not a criterion of this study; take"),
        (edited(values={"fluency": None}), "answer 3, field fluency: 'none' is not one of"),
        (edited(item="zzzzzz"), "answer 3, field item: 'zzzzzz' is not in the form of rater-1; restore"),
        (edited(seconds=-1), "answer 3, field seconds: -1 is not a time; use"),
        (edited(seconds="fast"), "answer 3, field seconds: 'fast' is not a time"),
        (edited(values="1"), "bad.json: is not a file of answers .ValueError"),
        (lambda told: told.update(rater="eve"), "answer 1, field rater: nobody is called 'eve' here; the raters are"),
        (lambda told: told.update(study="0" * 12), "answer 1, field study: '000000000000' is not this study"),
        (lambda told: told.pop("study"), "bad.json: is not a file of answers .KeyError: 'study'"),
    ],
)
def test_a_bad_file_of_the_page_is_named(made, edit, message):
    told = json.loads(answer_file(shown(made[1], "rater-1"), lambda item, key: "tie"))
    edit(told)
    put(made[1], "bad.json", json.dumps(told))
    with pytest.raises(PeopleError, match=message) as error:
        read_answers(made[1] / "answers", made[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "column", "cell", "message"),
    [
        (2, 7, "left", "bad.csv, row 3, field professionalism: 'left' is not one of 1, tie, 2; ask the rater"),
        (3, 2, "i12e456", "bad.csv, row 4, field item: '12e456' is not in the form of rater-1"),
        (3, 1, "", "bad.csv, row 4, field rater: nobody is called ''"),
        (1, 0, "", "bad.csv, row 2, field study: '' is not this study"),
        (0, 8, "Warmth", "bad.csv, row 1, field empathy: there is no such column; keep"),
    ],
)
def test_a_bad_sheet_is_named(made, row, column, cell, message):
    rows = answer_sheet(made[1], "rater-1", lambda item, key: "tie")
    rows[row][column] = cell
    put(made[1], "bad.csv", as_csv(rows))
    with pytest.raises(PeopleError, match=message):
        read_answers(made[1] / "answers", made[0])


def test_other_bad_files(made):
    made_study, folder = made
    with pytest.raises(PeopleError, match="answers: holds no .json or .csv file; put"):
        read_answers(folder / "answers", made_study)
    for name, text in (("x.json", "{"), ("x.json", "[]"), ("x.json", "\0"), ("x.csv", "")):
        put(folder, name, text)
        with pytest.raises(PeopleError, match=f"{name}"):
            read_answers(folder / "answers", made_study)
        (folder / "answers" / name).unlink()
    form = shown(folder, "rater-1")
    put(folder, "1.json", answer_file(form, lambda item, key: "1"))
    put(folder, "2.json", answer_file(form, lambda item, key: "2"))
    with pytest.raises(PeopleError, match=r"2.json, answer 1, field fluency: contradicts .*1.json; keep"):
        read_answers(folder / "answers", made_study)


# Quality and results ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Ten raters on twenty samples: seven attentive, one at random, one always reply 1, one careless and fast."""
    folder = tmp_path_factory.mktemp("study")
    made = study(raters=10)
    write_forms(made, folder)
    rng = random.Random(11)
    for number, rater in enumerate(made.forms):
        form, choose, seconds = shown(folder, rater), attentive(0.8, rng), rng.uniform(20, 60)
        if number == 7:
            choose = lambda item, key: rng.choice(["1", "tie", "2"])  # noqa: E731
        if number == 8:
            choose = lambda item, key: "1"  # noqa: E731
        if number == 9:
            choose, seconds = lambda item, key: rng.choice(["1", "2"]), 2.5
        put(folder, f"{rater}.json", answer_file(form, choose, seconds))
    return made, read_answers(folder / "answers", made)


def test_quality_flags_exactly_the_bad_raters(judged):
    found = quality(*judged)
    assert list(found) == list(judged[0].forms)
    assert [rater for rater, report in found.items() if report.flags] == ["rater-08", "rater-09", "rater-10"]
    random_rater, one_sided, careless = (found[f"rater-{n}"] for n in ("08", "09", "10"))
    assert len(random_rater.flags) == 1 and "attention items" in random_rater.flags[0]
    assert "passed 1 of 3 attention items" in one_sided.flags
    assert one_sided.flags[-1] == "answered '1' in 100% of 80 answers" and one_sided.commonest_share == 1
    assert any("took 2.5 s per item (median), under 8 s" == flag for flag in careless.flags)
    good = found["rater-01"]
    assert (good.answered, good.shown, good.attention_passed, good.attention_answered) == (23, 23, 3, 3)
    assert 20 <= good.median_seconds <= 60 and good.commonest_share < 0.7


def test_a_rater_without_answers_or_times_is_not_flagged(judged):
    made, answers = judged
    unknown = [replace(a, seconds=None) for a in answers if a.rater == "rater-01"]
    found = quality(made, unknown)
    assert found["rater-01"].median_seconds is None and not found["rater-01"].flags
    assert found["rater-02"].answered == 0 and found["rater-02"].commonest is None and not found["rater-02"].flags


def test_win_rates_recover_the_preference(judged):
    made, answers = judged
    bad = [rater for rater, report in quality(made, answers).items() if report.flags]
    found = win_rates(made, answers, exclude=bad, **FEW)
    assert found.systems == ("Decoupled-DPO", "Vanilla-SFT")
    assert found.excluded == ("rater-08", "rater-09", "rater-10") and len(found.raters) == 7
    assert (found.items, found.dialogues) == (20, 20)
    for criterion in found.criteria.values():
        assert criterion.answers == 7 * 20
        assert criterion.win.low <= 80 <= criterion.win.high and criterion.win.high - criterion.win.low < 25
        assert criterion.win.value + criterion.tie.value + criterion.lose.value == pytest.approx(100)
        assert criterion.tie == Estimate(0, 0, 0)
        # Raters err each on their own: two of them agree with 0.68, where chance gives that too.
        assert abs(criterion.agreement.alpha.value) < 0.2 and abs(criterion.agreement.fleiss.value) < 0.2
        assert criterion.agreement.fleiss_items == 20
    everyone = win_rates(made, answers, **FEW)
    assert everyone.excluded == () and len(everyone.raters) == 10
    assert statistics.mean(c.win.value for c in everyone.criteria.values()) < 80
    assert json.loads(found.to_json())["criteria"]["fluency"]["win"].keys() == {"value", "low", "high"}
    assert win_rates(made, answers[::-1], exclude=bad, **FEW) == found


def test_a_side_is_no_preference(judged):
    made, answers = judged
    only = [a for a in answers if a.rater == "rater-09"]  # always reply 1
    for criterion in win_rates(made, only, **FEW).criteria.values():
        assert criterion.win.value == criterion.lose.value == 50
        assert criterion.agreement.fleiss is None and criterion.agreement.alpha is None  # one rater


def test_agreement_of_raters_who_agree(judged):
    made, _ = judged
    items = [item for item in made.items if not item.attention]
    answers = [
        Answer(rater, item.id, {c.key: 1 if number % 2 else -1 for c in DECOUPLED_ESC})
        for rater in made.forms
        for number, item in enumerate(items)
    ]
    agreement = win_rates(made, answers, **FEW).criteria["empathy"].agreement
    assert agreement.alpha == agreement.fleiss == Estimate(1, 1, 1)
    # Unequal numbers of raters: kappa is taken on the items with the commonest number, alpha on all.
    agreement = win_rates(made, answers[3:], **FEW).criteria["empathy"].agreement
    assert agreement.fleiss_items == 17 and agreement.alpha.value == 1
    # The same answer everywhere says nothing about agreement.
    constant = [replace(a, values=dict.fromkeys(a.values, 0)) for a in answers]
    found = win_rates(made, constant, **FEW).criteria["empathy"]
    assert found.tie.value == 100 and found.agreement.fleiss is None and found.agreement.alpha is None


def test_items_of_one_dialogue_are_drawn_together():
    def width(per_dialogue):
        made = make_study(
            samples(20, per_dialogue=per_dialogue), DECOUPLED_ESC[:1], kind="pairs", raters=1, items_per_rater=20,
            attention=0, seed=0,
        )  # fmt: skip
        dialogue = {item.id: int(item.sample[-2:]) // 4 for item in made.items}
        answers = [Answer("rater-1", item, {"fluency": 1 if dialogue[item] % 2 else -1}) for item in dialogue]
        win = win_rates(made, answers, replicates=2000, seed=0).criteria["fluency"].win
        return None if win.low is None else win.high - win.low

    assert width(4) > 1.5 * width(1)
    assert width(20) is None  # one dialogue


def test_mean_scores(tmp_path):
    systems = ("ExTES", "preferred", "rejected")
    made = make_study(
        samples(12, systems), CSO_SUPPORT, kind="scores", raters=4, items_per_rater=36, attention=2, seed=0
    )
    rng = random.Random(0)
    level = {"ExTES": 4, "preferred": 4, "rejected": 2}
    answers = [
        Answer(rater, item.id, {c.key: level[item.systems[0]] + rng.choice([-1, 0, 1]) for c in CSO_SUPPORT}, 20.0)
        for rater in made.forms
        for item in made.items
        if not item.attention
    ]
    checks = {item.id: item.attention for item in made.items}
    answers += [
        Answer(rater, show.item, {c.key: 5 if rater == "rater-2" else 1 for c in CSO_SUPPORT}, 20.0)
        for rater, form in made.forms.items()
        for show in form
        if checks[show.item]
    ]
    assert [rater for rater, report in quality(made, answers).items() if report.flags] == ["rater-2"]
    found = mean_scores(made, answers, **FEW)
    assert found.systems == systems
    for criterion in found.criteria.values():
        assert list(criterion.differences) == [f"{a} - {b}" for a, b in combinations(systems, 2)]
        for name, estimate in criterion.means.items():
            assert estimate.low <= level[name] + 0.25 and estimate.high >= level[name] - 0.25
        assert criterion.differences["preferred - rejected"].low > 1
        assert 0.3 < criterion.agreement.alpha.value < 0.9 and criterion.agreement.fleiss_items == 36
    with pytest.raises(PeopleError, match="study of scores, not of pairs; use mean_scores"):
        win_rates(made, answers, **FEW)
    one = {item.id for item in made.items if item.systems == ("ExTES",)}
    with pytest.raises(PeopleError, match="no answer is about 'preferred'"):
        mean_scores(made, [a for a in answers if a.item in one], **FEW)


def test_results_that_can_not_be_had(judged):
    made, answers = judged
    with pytest.raises(PeopleError, match="exclude names 'eve'; the raters are rater-01"):
        win_rates(made, answers, exclude=["eve"], **FEW)
    with pytest.raises(PeopleError, match="no answer is on 'fluency'"):
        win_rates(made, [], **FEW)
    with pytest.raises(PeopleError, match="study of pairs, not of scores; use win_rates"):
        mean_scores(made, answers, **FEW)


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_form_is_answered_in_a_browser(driver, tmp_path):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    texts = samples(4)
    texts[0] = replace(texts[0], replies=dict(texts[0].replies, **{"Vanilla-SFT": NASTY}))
    criteria = [*DECOUPLED_ESC[:1], Criterion("empathy", NASTY)]
    made = make_study(texts, criteria, kind="pairs", raters=1, items_per_rater=4, attention=1, seed=0)
    write_forms(made, tmp_path)
    answers = tmp_path / "answers"
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(answers)})
    driver.get((tmp_path / "forms" / "rater-1.html").as_uri())
    page = lambda selector: driver.find_elements("css selector", selector)  # noqa: E731
    assert "not counselling" in page("#notice")[0].text

    page("#begin")[0].click()
    said = {}
    for number, item in enumerate(shown(tmp_path, "rater-1")["items"]):
        assert [element.get_property("textContent") for element in page(".reply .text")] == item["replies"]
        assert driver.switch_to.active_element.text == f"Item {number + 1} of 5"  # said by a screen reader
        if number % 2:  # by mouse, through the labels
            for fieldset in page("fieldset"):
                fieldset.find_elements("css selector", "label")[1].click()
            said[item["item"]] = "tie"
        else:  # by keyboard alone
            driver.switch_to.active_element.send_keys(Keys.TAB)
            for key in "12":
                driver.switch_to.active_element.send_keys(key)
            said[item["item"]] = ["1", "2"]
            assert driver.switch_to.active_element == page("#next")[0]
        if number == 2:
            driver.refresh()  # what was answered is there, and so is the place
            assert page("#title")[0].text == "Item 3 of 5" and page("#answered")[0].text == "3 answered"
            assert [i.get_attribute("value") for i in page("input:checked")] == ["1", "2"]
        if number == 3:  # a second tab does not undo what the first one holds, nor the other way round
            first = driver.current_window_handle
            driver.switch_to.new_window("tab")
            driver.get((tmp_path / "forms" / "rater-1.html").as_uri())
            page("#back")[0].click()
            driver.close()
            driver.switch_to.window(first)
            WebDriverWait(driver, 10).until(lambda _: page("#title")[0].text == "Item 3 of 5", "the tabs differ")
            page("#next")[0].click()
        page("#next")[0].click()
    assert "5 of 5" in page("#end-text")[0].text and not page("#open-part")[0].is_displayed()

    page("#save")[0].click()
    WebDriverWait(driver, 10).until(lambda _: list(answers.glob("*.json")), "no answers were saved")
    read = read_answers(answers, made)
    swapped = {show.item: show.swapped for show in made.forms["rater-1"]}
    assert [answer.item for answer in read] == list(said)
    for answer in read:
        fluency = 0 if said[answer.item] == "tie" else -1 if swapped[answer.item] else 1
        assert answer.values == {"fluency": fluency, "empathy": -fluency}
        assert 0 <= answer.seconds < 30
    assert any(answer.seconds > 0 for answer in read)
    problems = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not problems and not driver.execute_script("return performance.getEntriesByType('resource').length")

    page("#forget")[0].click()
    driver.switch_to.alert.accept()
    driver.refresh()
    assert page("#begin")[0].is_displayed() and driver.execute_script("return file()").count('"item"') == 0
