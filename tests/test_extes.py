"""CSO's data sets in their published forms, on small files written here; odd JSON for every reader of lists."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import CorpusError, chat_form, extes, fetch, invented, released
from decoupled_esc.errors import KnownError
from decoupled_esc.present.paper import load_tables
from decoupled_esc.search import escpro
from tests.plain_data import put

EXTES = [
    {"scene": "work", "description": "Too much to do.", "content": [
        {"User": "I can't  go on."}, {"AI Strategy": "Offer Hope", "AI": "It can get better."}, {"User": " "},
        {"User": "How?"}, {"AI": "Shall we make a plan?", "AI Strategy": "suggest options"}]},
    {"scene": "love", "description": "", "content": [{"User": "Hi."}, {"AI": "Ha!", "AI Strategy": "Joking"}]},
    {"content": [{"User": "Hi."}]},
]  # fmt: skip
PRO = [
    {"description": "d", "scene": "s", "iter": 3, "messages": [
        {"role": "user", "content": "I failed."},
        {"role": "assistant", "content": "That hurts.", "strategy": "Empathetic Statements",
         "negative": [{"strategy": "Share Information", "content": "Many fail."},
                      {"strategy": "Affirmation", "content": "You are great."}]},
        {"role": "user", "content": "Yes."},
        {"role": "assistant", "content": "What  next?", "strategy": "Collaborative Planning", "negative": []},
        {"role": "assistant", "content": "We can plan.", "strategy": "Affirmation"}]},
]  # fmt: skip
LABELLED = [dict.fromkeys(("user_input", "strategy", "response", "Contains Empathy Error", "Error Type"), "x")]


def read_released(path):
    name = released.FILES["failed"]
    path.rename(path.with_name(name))
    try:
        return released.read(path.parent, [], [])
    finally:
        path.with_name(name).rename(path)


READERS = {
    "extes": (extes.read, EXTES),
    "esc_pro": (escpro.read_published, PRO),
    "released": (read_released, LABELLED),
    "invented": (invented.read, json.loads(invented.PATH.read_text(encoding="utf-8"))[:1]),
    "raw": (lambda path: corpus.read_raw(path, "x"), []),
}


def written(folder, data, name="file.json"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_the_names_are_the_papers_and_esconvs():
    table = load_tables()["cso/table-8"]
    assert {row.key for row in table.rows} == set(extes.TO_ESCONV)
    assert {row.values["cso"] for row in table.rows} <= set(extes.TO_ESCONV), "CSO's eight are among the fifteen"
    assert set(extes.TO_ESCONV.values()) == set(taxonomy.STRATEGIES) - {"Self-disclosure", "Others"}


def test_extes_is_found_by_its_name_and_becomes_seed_dialogues(tmp_path, monkeypatch):
    monkeypatch.setenv(fetch.FOLDER, str(written(tmp_path, EXTES, "extes/ExTES.json").parents[1]))
    found = corpus.load("extes", download=False)
    assert (found.name, found.origin, [d.id for d in found.dialogues]) == ("extes", "environment", ["extes/0000"])
    assert (found.dialogues[0].situation, found.dialogues[0].problem_type) == ("Too much to do.", "work")
    turns = corpus.turns(found.dialogues[0])
    assert [(turn.id, turn.strategy, turn.reply) for turn in turns] == [
        ("extes/0000/01", "Affirmation and Reassurance", "It can get better."),
        ("extes/0000/03", "Providing Suggestions", "Shall we make a plan?"),
    ]
    assert [m.text for m in chat_form(found.dialogues[0])] == [
        "I can't go on.", "It can get better.", "How?", "Shall we make a plan?"]  # fmt: skip
    assert [(flaw.dialogue, flaw.what) for flaw in found.flaws] == [
        ("extes/0000", "utterance without text"), ("extes/0001", "unknown strategy 'Joking'"),
        ("extes/0002", "no supporter speaks")]  # fmt: skip
    assert len(found.digest) == len(fetch.identity("extes")) == 64
    assert tuple(extes.read(fetch.verify("extes").paths[0])[0]) == found.dialogues


def test_published_pairs_are_what_training_takes(tmp_path, monkeypatch):
    monkeypatch.setenv(fetch.FOLDER, str(written(tmp_path, PRO, "esc_pro/ESC-Pro.json").parents[1]))
    pairs, turns = escpro.read_published(fetch.verify("esc_pro").paths[0])
    assert [(turn.id, turn.strategy, turn.reply) for turn in turns] == [
        ("esc-pro/0000/01", "Reflection of feelings", "That hurts."),
        ("esc-pro/0000/03", "Providing Suggestions", "What next?"),
        ("esc-pro/0000/04", "Affirmation and Reassurance", "We can plan.")]  # fmt: skip
    assert [(pair.id, pair.strategy, pair.reply) for pair in pairs] == [
        ("esc-pro/0000/01#0", "Information", "Many fail."),
        ("esc-pro/0000/01#1", "Affirmation and Reassurance", "You are great."),
    ]
    assert all(pair.turn == turns[0] and pair.turn.dialogue == "esc-pro/0000" for pair in pairs)
    assert [m.text for m in turns[2].context] == ["I failed.", "That hurts.", "Yes.", "What next?", corpus.BLANK]
    escpro.write(tmp_path / "pairs.jsonl", pairs)
    assert escpro.read(tmp_path / "pairs.jsonl") == pairs and escpro.some(pairs, 1.0) == pairs


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("extes", (0, "content"), ..., "dialogue 0, content: expected a list"),
        ("extes", (0, "content", 0), "hello", "dialogue 0, content[0], ai: missing or not text"),
        ("extes", (0, "content", 1, "AI"), ..., "dialogue 0, content[1], ai: missing or not text"),
        ("extes", (0, "content", 1, "AI Strategy"), 3, "dialogue 0, content[1], ai strategy: missing or not text"),
        ("extes", (0, "scene"), [], "dialogue 0, scene: missing or not text"),
        ("esc_pro", (0,), [], "dialogue 0, field dialogue: Input should be a valid dictionary"),
        ("esc_pro", (0, "messages"), {}, "dialogue 0, field messages: Input should be a valid list"),
        ("esc_pro", (0, "messages", 1, "strategy"), "Joking", "strategy: Value error, 'Joking' is none of CSO's eight"),
        ("esc_pro", (0, "messages", 1, "negative", 0, "content"), " ", "negative.0.content: String should match"),
        ("esc_pro", (0, "messages", 1, "negative"), 5, "messages.1.assistant.negative: Input should be a valid list"),
        ("esc_pro", (0, "messages", 0, "role"), "system", "field messages.0: Input tag 'system'"),
        ("esc_pro", (0, "messages", 0, "content"), "\ud83d", "user.content: Value error, half of a surrogate"),
        ("invented", (0, "explorations"), 3, "row 0, explorations: Input should be 0, 1 or 2"),
        ("released", (0,), None, "row 0, user_input: missing or not text"),
        ("released", (0, "response"), "\ud83d", "row 0, response: half of a surrogate pair"),
    ],
)
def test_another_form_is_an_error_that_names_the_place(tmp_path, name, place, value, words):
    reader, data = READERS[name]
    with pytest.raises(CorpusError) as error:
        reader(written(tmp_path, put(data, place, value)))
    said = str(error.value).replace(released.FILES["failed"], "file.json")
    assert words in said and "file.json, " in said and error.value.remedy


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"1" * 10_000, b"[" * 100_000, b"\xff\xfe[", bytes(60), None, "folder"])
def test_a_file_that_is_no_list(tmp_path, name, content):
    path = tmp_path / "x.json"
    if content == "folder":
        path.mkdir()
    else:
        path.write_bytes(content or b"null")
    with pytest.raises(CorpusError, match=r"\.json.*Remedy: ") as error:
        READERS[name][0](path)
    assert isinstance(error.value, KnownError)


KEYS = ["content", "User", "AI", "AI Strategy", "messages", "role", "negative", "strategy"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "Affirmation"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100, deadline=None)
@given(value=json_values)
def test_no_other_exception_ever(tmp_path_factory, name, value):
    path = written(tmp_path_factory.getbasetemp(), [value, *READERS[name][1]], f"{name}.json")
    try:
        READERS[name][0](path)
    except CorpusError as error:
        assert error.remedy and ".json" in str(error)
