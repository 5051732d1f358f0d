"""The human evaluation kit, end to end, with scripted raters whose behaviour is known."""

import json
import random
import re

import krippendorff
import numpy as np
import pytest
from statsmodels.stats import inter_rater

from decoupled_esc import corpus
from decoupled_esc.corpus import Dialogue, Utterance
from decoupled_esc.evaluate import human_eval
from decoupled_esc.evaluate.human_eval import CRITERIA, HumanEvalError, Study, export, read_answers, report

NASTY = 'It is </script><script>alert(1)</script> <b>& "so"\u2028{{form}}'
SYSTEMS = ("Decoupled-DPO", "Vanilla-SFT")
FEW = {"exclude": [], "replicates": 200, "seed": 3}


def talks(number=20, text="I could not sleep for {n} nights."):
    """Dialogues of one turn, and one whose seeker says nothing before the supporter's second line."""
    made = []
    for n in range(number):
        lines = [("seeker", text.replace("{n}", str(n)), None), ("supporter", f"What troubles you, {n}?", "Question")]
        lines += [("supporter", "And then?", "Question")] if n == 0 else []
        said = [Utterance(f"talk/{n:03}/{k}", role, line, strategy) for k, (role, line, strategy) in enumerate(lines)]
        made.append(Dialogue(f"talk/{n:03}", tuple(said), "test"))
    return made


def replies_to(dialogues, systems=SYSTEMS):
    """A reply is a function of its system and turn, without the system's name."""
    turns = [turn.id for dialogue in dialogues for turn in corpus.turns(dialogue)]
    said = "said, {} short nights are hard for you."
    starts = zip(systems, ("Gently", "Plainly", "Warmly"))
    return {name: {id: f"{start} {said.format(id[5:8])}" for id in turns} for name, start in starts}


def make(folder, kind="pairs", samples=20, raters=6, seed=1, systems=SYSTEMS):
    dialogues = talks(max(samples, 3))
    export(dialogues, replies_to(dialogues, systems), folder, samples, raters, kind, seed)
    return key(folder)


def key(folder):
    return Study.model_validate_json((folder / "key.json").read_bytes())


def shown(folder, rater="rater-1"):
    """What a rater sees: the data inside the page."""
    page = (folder / "forms" / f"{rater}.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="form">(.*?)</script>', page, re.DOTALL)[1])


def attentive(prefer, rng):
    """Prefers the system whose replies begin with *Gently* with probability ``prefer``, and reads the checks."""

    def choose(item, name):
        sound = [text.endswith("for you.") and " said, " in text for text in item[2]]
        one = item[2][0].startswith("Gently") == (rng.random() < prefer) if all(sound) else sound[0]
        return "1" if one else "2"

    return choose


def answers_of(form, choose, seconds=30.0):
    """What the page saves."""
    head = {"study": form["study"], "rater": form["rater"]}
    said = [(item[0], {name: choose(item, name) for name in CRITERIA}) for item in form["items"]]
    return [head | {"item": item, "values": values, "seconds": seconds} for item, values in said]


def put(folder, name, answers):
    (folder / "answers" / name).write_text(answers if isinstance(answers, str) else json.dumps(answers))


def fill(folder, study, prefer, rng):
    for rater in study.forms:
        put(folder, f"{rater}.json", answers_of(shown(folder, rater), attentive(prefer, rng)))


def outcome(folder, **options):
    report(folder, **FEW | options)
    return json.loads((folder / "outcome.json").read_text("utf-8"))


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "raters", "kind"), [(3, 1, "pairs"), (9, 4, "pairs"), (5, 3, "scores")])
def test_a_study_is_balanced(samples, raters, kind, tmp_path):
    study = make(tmp_path, kind, samples, raters, systems=SYSTEMS if kind == "pairs" else (*SYSTEMS, "ExTES"))
    judged = [id for id, item in study.items.items() if item.systems]
    texts = {reply for id in judged for reply in study.items[id].replies}
    assert len({tuple(form) for form in study.forms.values()}) == raters
    for form in study.forms.values():
        checks = [id for id in form if id not in judged]
        assert len(form) - 2 == len(judged) == samples * (1 if kind == "pairs" else 3) and {*judged, *checks} == {*form}
        assert all(study.items[id].replies[-1] not in texts for id in checks)
        assert kind == "scores" or sum(form[id] for id in checks) == 1
        assert kind == "scores" or abs(2 * sum(form[id] for id in judged) - len(judged)) <= 1
    for id in judged if kind == "pairs" else []:
        assert abs(2 * sum(form[id] for form in study.forms.values()) - raters) <= 1


def test_equal_seeds_make_equal_bytes(tmp_path):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        make(tmp_path / name, seed=seed, samples=4, raters=2)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")} for name in "abc")
    assert a == b and all(a[name] != c[name] for name in a)


def test_forms_are_blind(tmp_path):
    study = make(tmp_path)
    files = list((tmp_path / "forms").iterdir())
    assert len(files) == 6
    for path in files:
        text = path.read_text("utf-8")
        for secret in (*SYSTEMS, "talk/0", "swapped", "Question"):
            assert secret not in text, f"{path.name} says {secret!r}"
        assert not re.search(r"https?://|\bsrc=|<link|@import|url\(|fetch\(|XMLHttpRequest", text)  # loads nothing
    assert "default-src 'none'" in (tmp_path / "forms" / "rater-1.html").read_text("utf-8")
    assert shown(tmp_path).keys() == {"study", "rater", "choices", "criteria", "items"}
    with pytest.raises(HumanEvalError, match="key.json: belongs to another study"):
        make(tmp_path, seed=2)
    assert key(tmp_path) == study


def test_texts_can_not_leave_the_page(tmp_path):
    replies = {name: dict.fromkeys(said, NASTY) for name, said in replies_to(talks(4), ("A", "B")).items()}
    replies["B"] = dict.fromkeys(replies["A"], "and so another said to you")
    export(talks(4, NASTY), replies, tmp_path, 4, 1, "pairs", 0)
    page = (tmp_path / "forms" / "rater-1.html").read_text("utf-8")
    assert page.count("</script>") == 2 and "<script>alert" not in page
    assert {text for _, _, texts in shown(tmp_path)["items"] for text in texts} >= {NASTY, *replies["B"].values()}


def test_what_makes_no_study_is_refused(tmp_path):
    replies = replies_to(talks(4))
    fields = {"dialogues": talks(4), "replies": replies, "folder": tmp_path}
    fields |= {"samples": 4, "raters": 1, "kind": "pairs", "seed": 0}
    export(**fields)  # though no turn after silence
    assert all(item.context[-1][1].strip() for item in key(tmp_path).items.values())
    for change in ({"samples": 0}, {"raters": 0}, {"kind": "triples"}, {"replies": {}}, {"replies": {"A": {}}}):
        with pytest.raises(HumanEvalError, match="ask for pairs of two systems"):
            export(**fields | change)
    with pytest.raises(HumanEvalError, match="attention items need replies of 5 different words; ask for more samples"):
        export(**fields | {"samples": 1})
    with pytest.raises(HumanEvalError, match="0 dialogues have a turn to judge, and 4 samples.*data fetch"):
        export(**fields | {"replies": {"A": replies[SYSTEMS[0]], "B": replies[SYSTEMS[0]]}})


# Answers --------------------------------------------------------------------------------------------------------------


def test_what_the_page_saves_is_read_and_unblinded(tmp_path):
    study, form = make(tmp_path), shown(tmp_path)
    choose = lambda item, name: random.Random(item[0] + name).choice(["1", "tie", "2"])
    put(tmp_path, "a.json", answers_of(form, choose, 12))
    page = read_answers(tmp_path / "answers", study)
    assert len(page) == 22 * 4 and set(page.seconds) == {12}
    for row in page.itertuples():
        number = {"1": 1, "tie": 0, "2": -1}[choose([row.item], row.criterion)]
        assert row.value == (-number if study.forms["rater-1"][row.item] else number)


def test_partial_answers_are_kept_and_copies_joined(tmp_path):
    study = make(tmp_path)
    whole = answers_of(shown(tmp_path), lambda item, name: "1")
    put(tmp_path, "early.json", [row | {"seconds": 5, "values": {"fluency": "1"}} for row in whole[:7]])
    assert len(read_answers(tmp_path / "answers", study)) == 7
    put(tmp_path, "late.json", whole)
    joined = read_answers(tmp_path / "answers", study)
    assert len(joined) == 22 * 4 and set(joined.seconds) == {30}
    put(tmp_path, "other.json", answers_of(shown(tmp_path), lambda item, name: "2"))
    message = r"other.json, field fluency of item \w+ of rater-1: contradicts .*late.json; keep"
    with pytest.raises(HumanEvalError, match=message):
        read_answers(tmp_path / "answers", study)


def edited(**changes):
    """The page's answers with a change of the third."""
    return lambda told: [*told[:2], told[2] | changes, *told[3:]]


ODD = [
    (edited(values={"fluency": "3"}), r"bad.json, answer 3, field fluency: '3' is not one of 1, tie, 2; correct"),
    (edited(values={"charm": "1"}), "answer 3, field values: 'charm' is not one of fluency"),
    (edited(values={"fluency": None}), "answer 3, field 'values', field 'fluency', Input should be a valid string"),
    (edited(values={"a\nb": []}), "answer 3, field 'values', field 'a.nb', Input"),
    (edited(item="zzzzzz"), "answer 3, field item: 'zzzzzz' is not one of"),
    (edited(seconds=-1), "answer 3, field 'seconds', Input should be greater"),
    (edited(seconds="fast"), "answer 3, field 'seconds', Input should be a valid number"),
    (edited(seconds=10**400), "answer 3, field 'seconds', Input"),
    (edited(rater="eve"), "answer 3, field rater: 'eve' is not one of rater-1, "),
    (edited(study="0" * 12), "answer 3, field study: '000000000000' is not one of"),
    (lambda told: [{"item": told[0]["item"]}], "answer 1, field 'study', Field required"),
    (lambda told: [None], "answer 1, Input should be"),
    (lambda told: {"answers": told}, "bad.json, Input should be a valid array"),
    (lambda told: "[" * 10**5, "bad.json, Invalid JSON"),
    (lambda told: json.dumps(told)[:-9], "bad.json, Invalid JSON"),
    (edited(values=None), "answer 3, field 'values', Input should be"),
    (lambda told: [], "answers: holds no answers; put"),
]


def test_an_odd_file_is_named(tmp_path):
    study = make(tmp_path, samples=4, raters=2)
    answers = tmp_path / "answers"

    def refused(message):
        with pytest.raises(HumanEvalError, match=message) as error:
            read_answers(answers, study)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500

    for edit, message in ODD:
        put(tmp_path, "bad.json", edit(answers_of(shown(tmp_path), lambda item, name: "tie")))
        refused(message)
    for name, content in (("x.json", b""), ("x.json", b"\0" * 9), ("x.json", b"\xff\xfe[]")):
        for path in answers.iterdir():
            path.unlink()
        (answers / name).write_bytes(content)
        refused(name)
    (answers / "a.json").mkdir()
    refused("a.json, ")


def test_an_odd_key_is_named(tmp_path):
    with pytest.raises(HumanEvalError, match="key.json, .*No such file"):
        report(tmp_path, **FEW)
    for content in ("{}", "[]", "", '{"kind": "triples"}'):
        (tmp_path / "key.json").write_text(content)
        with pytest.raises(HumanEvalError, match="key.json, .*; correct it"):
            report(tmp_path, **FEW)


# Results --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Ten raters on twenty samples: seven attentive, one at random, one always reply 1, one careless and fast."""
    folder, rng = tmp_path_factory.mktemp("study"), random.Random(11)
    fill(folder, make(folder, raters=10), 0.8, rng)
    for rater, choices, seconds in (("08", ["1", "tie", "2"], 30), ("09", ["1"], 30), ("10", ["1", "2"], 2.5)):
        told = answers_of(shown(folder, f"rater-{rater}"), lambda item, name, said=choices: rng.choice(said), seconds)
        put(folder, f"rater-{rater}.json", told)
    return folder


def test_flags_name_exactly_the_bad_raters(judged):
    lines = report(judged, **FEW).splitlines()[:10]
    assert all(line == f"rater-{n:02}: 22 of 22 items, no flag" for n, line in enumerate(lines[:7], 1))
    assert "attention items" in lines[7] and ";" not in lines[7]
    assert lines[8].endswith("passed 1 of 2 attention items; answered '1' in 100% of 80 answers")
    assert "took 2.5 s per item (median), under 8 s" in lines[9]
    with pytest.raises(HumanEvalError, match="exclude names 'eve'; the raters are rater-01"):
        report(judged, **FEW | {"exclude": ["eve"]})
    with pytest.raises(HumanEvalError, match="too few answers on fluency; wait for more"):
        report(judged, **FEW | {"exclude": [f"rater-{n:02}" for n in range(1, 11)]})


def test_win_rates_recover_the_preference(judged):
    bad = ["rater-08", "rater-09", "rater-10"]
    found, text = outcome(judged, exclude=bad), report(judged, **FEW | {"exclude": bad}).splitlines()
    assert found["systems"] == [*SYSTEMS] and found["excluded"] == bad and len(found["raters"]) == 7
    for result in found["criteria"].values():
        assert result["answers"] == 7 * 20 and result["tie"] == {"value": 0, "low": 0, "high": 0}
        assert result["win"]["low"] <= 80 <= result["win"]["high"] <= result["win"]["low"] + 25
        assert result["win"]["value"] + result["lose"]["value"] == pytest.approx(100)
    assert text[7] == "rater-08: 22 of 22 items, left out"
    assert text[10] == "Decoupled-DPO against Vanilla-SFT: 20 items of 20 dialogues, 7 raters"
    value, low, high = found["criteria"]["fluency"]["win"].values()
    assert text[11].startswith(f"fluency: win {value:.0f} [{low:.0f}, {high:.0f}]%, tie 0 [0, 0]%, lose")


def test_agreement_is_that_of_an_independent_calculation(tmp_path):
    study, ratings = make(tmp_path, raters=4), {}
    fill(tmp_path, study, 0.8, random.Random(2))
    part = json.loads((tmp_path / "answers" / "rater-3.json").read_text())[:9]
    put(tmp_path, "rater-3.json", part)  # unequal numbers of raters
    for path in (tmp_path / "answers").glob("*.json"):
        for row in json.loads(path.read_text()):
            if study.items[row["item"]].systems:
                sign = -1 if study.forms[row["rater"]][row["item"]] else 1
                ratings[row["rater"], row["item"]] = sign * {"1": 1, "2": -1}[row["values"]["empathy"]]
    raters, items = (sorted({at[k] for at in ratings}) for k in (0, 1))
    table = np.array([[ratings.get((rater, item), np.nan) for item in items] for rater in raters])
    full = (~np.isnan(table)).sum(0) == 3
    found = outcome(tmp_path)["criteria"]["empathy"]["agreement"]
    assert found["alpha"]["value"] == pytest.approx(krippendorff.alpha(table, level_of_measurement="ordinal"))
    counts = np.array([[(column == value).sum() for value in (-1, 1)] for column in table[:, full].T])
    assert found["fleiss"]["value"] == pytest.approx(inter_rater.fleiss_kappa(counts))
    assert 10 < found["fleiss_items"] == full.sum() < 20


def test_agreement_is_perfect_or_undefined(tmp_path):
    make(tmp_path, raters=2)
    prefer, flip = attentive(1, random.Random(0)), {"1": "2", "2": "1"}

    def agreement(choose):
        for rater in ("rater-1", "rater-2"):
            put(tmp_path, f"{rater}.json", answers_of(shown(tmp_path, rater), choose))
        return outcome(tmp_path)["criteria"]["empathy"]["agreement"]

    found = agreement(lambda item, name: prefer(item, name) if int(item[0], 16) % 2 else flip[prefer(item, name)])
    assert found["alpha"] == found["fleiss"] == {"value": 1, "low": 1, "high": 1} and found["fleiss_items"] == 20
    found = agreement(lambda item, name: "tie")  # the same answer everywhere says nothing about agreement
    assert found["alpha"] is found["fleiss"] is None
    (tmp_path / "answers" / "rater-2.json").unlink()
    assert outcome(tmp_path)["criteria"]["empathy"]["agreement"] == {"fleiss": None, "fleiss_items": 0, "alpha": None}
    assert "tie 100 [100, 100]%, lose 0 [0, 0]%, Krippendorff's alpha undefined" in report(tmp_path, **FEW)


def test_without_an_effect_intervals_contain_no_preference(tmp_path):
    """Raters who prefer either system with probability 1/2: about 95% of the intervals hold 50%."""
    rng, held, study = random.Random(5), [], make(tmp_path, raters=3)
    for _ in range(25):
        fill(tmp_path, study, 0.5, rng)
        wins = [result["win"] for result in outcome(tmp_path)["criteria"].values()]
        held += [win["low"] <= 50 <= win["high"] for win in wins]
    assert len(held) == 100 and sum(held) >= 85
    put(tmp_path, "rater-1.json", answers_of(shown(tmp_path), lambda item, name: "1"))  # a side is no preference
    alone = outcome(tmp_path, exclude=["rater-2", "rater-3"])["criteria"]["fluency"]
    assert alone["win"]["value"] == alone["lose"]["value"] == 50


def test_items_of_one_dialogue_are_sampled_together(judged):
    study = key(judged)
    answers = read_answers(judged / "answers", study)
    told = answers[~answers.attention & (answers.criterion == "fluency")]
    number = told.dialogue.str[-3:].astype(int)

    def width(per_dialogue):
        lines = told.assign(dialogue=number // per_dialogue, value=np.where(number // 4 % 2, 1, -1))
        win = human_eval.criterion_result(lines, study, replicates=2000, seed=0)["win"]
        return None if win.low is None else win.high - win.low

    assert width(4) > 1.5 * width(1) and width(20) is None  # one dialogue


def test_mean_scores(tmp_path):
    level, rng = {"ExTES": 4, "preferred": 4, "rejected": 2}, random.Random(0)
    study = make(tmp_path, "scores", 12, 4, systems=tuple(level))

    def choose(item, name):
        system = next(iter(study.items[item[0]].systems), None)
        return str(level[system] + rng.choice([-1, 0, 1])) if system else "1"

    for rater in study.forms:
        script = choose if rater != "rater-2" else lambda item, name: "5"
        put(tmp_path, f"{rater}.json", answers_of(shown(tmp_path, rater), script))
    lines = report(tmp_path, **FEW).splitlines()
    assert [line[:7] for line in lines[:4] if "no flag" not in line] == ["rater-2"]
    for result in outcome(tmp_path, exclude=["rater-2"])["criteria"].values():
        assert list(result["differences"]) == ["ExTES - preferred", "ExTES - rejected", "preferred - rejected"]
        assert all(m["low"] - 0.25 <= level[name] <= m["high"] + 0.25 for name, m in result["means"].items())
        assert result["differences"]["preferred - rejected"]["low"] > 1
        assert 0.3 < result["agreement"]["alpha"]["value"] < 0.9 and result["agreement"]["fleiss_items"] == 36


@pytest.mark.browser
def test_a_form_is_answered_in_a_browser(driver, tmp_path, monkeypatch):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    monkeypatch.setattr(human_eval, "CRITERIA", {"fluency": "It reads naturally.", "empathy": NASTY})
    replies = replies_to(talks(3))
    replies["Vanilla-SFT"]["talk/000/1"] = NASTY
    export(talks(3), replies, tmp_path, 3, 1, "pairs", 0)
    answers, address = tmp_path / "answers", (tmp_path / "forms" / "rater-1.html").as_uri()
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(answers)})
    driver.get(address)
    page = lambda selector: driver.find_elements("css selector", selector)
    assert "not counselling" in page("#start")[0].text
    page("#next")[0].click()
    keyboard, said = (Keys.TAB, Keys.SPACE, Keys.TAB, Keys.SPACE, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT), {}
    for number, (id, _, texts) in enumerate(shown(tmp_path)["items"]):
        assert [element.get_property("textContent") for element in page(".reply span")] == texts
        assert driver.switch_to.active_element.text == f"Item {number + 1} of 5"  # said by a screen reader
        said |= {(id, "fluency"): "tie" if number % 2 else "1", (id, "empathy"): "tie" if number % 2 else "2"}
        if number % 2:  # by mouse, through the labels
            for fieldset in page("fieldset"):
                fieldset.find_elements("css selector", "label")[1].click()
        else:
            for pressed in keyboard:
                driver.switch_to.active_element.send_keys(pressed)
        if number == 2:
            driver.refresh()  # what was answered is there, and so is the place
            assert page("#title")[0].text == "Item 3 of 5" and page("#open")[0].text.startswith("3 of 5 answered")
            assert [box.get_attribute("value") for box in page("input:checked")] == ["1", "2"]
        if number == 3:  # a second tab does not undo what the first one holds, nor the other way round
            first = driver.current_window_handle
            driver.switch_to.new_window("tab")
            driver.get(address)
            page("#back")[0].click()
            driver.close()
            driver.switch_to.window(first)
            WebDriverWait(driver, 10).until(lambda _: page("#title")[0].text == "Item 3 of 5", "the tabs differ")
            page("#next")[0].click()
        page("#next")[0].click()
    assert page("#open")[0].text == "5 of 5 answered."
    page("#save")[0].click()
    WebDriverWait(driver, 10).until(lambda _: list(answers.glob("*.json")), "no answers were saved")
    found = read_answers(answers, key(tmp_path))
    assert {(row.item, row.criterion): row.said for row in found.itertuples()} == said
    assert (found.seconds < 30).all() and (found.seconds > 0).any()
    problems = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not problems and not driver.execute_script("return performance.getEntriesByType('resource').length")
    page("#forget")[0].click()
    driver.switch_to.alert.accept()
    driver.refresh()
    assert page("#start")[0].is_displayed() and page("#open")[0].text.startswith("0 of 5")
