"""Human evaluation: blinded forms that raters fill in offline, and from their answers to win rates and agreement.

After figure 6 of DecoupledESC (pairs) and table 1 of CSO (single replies on a scale).  `export` writes ``forms/`` for
raters and ``key.json``, which unblinds and stays with you; `report` reads what came back into ``answers/``.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, model_validator

from decoupled_esc import corpus
from decoupled_esc.errors import KnownError
from decoupled_esc.evaluate.agreement import Undefined, fleiss_kappa, krippendorff_alpha
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, bootstrap, cluster_weights, ratio_of_sums

Replies = Mapping[str, Mapping[str, str]]  # system -> turn id -> reply
CHOICES = {"pairs": {"1": 1, "tie": 0, "2": -1}, "scores": {str(score): score for score in range(1, 6)}}
CRITERIA = {  # figure 6 of DecoupledESC; the names are the paper's, the wording ours
    "fluency": "It reads naturally, hangs together, and is easy to follow.",
    "professionalism": "It shows sound knowledge of how to support people, and gives no misleading advice.",
    "empathy": "It understands what the seeker feels, and shows care.",
    "helpfulness": "What it offers is relevant to the seeker's situation, and of use.",
}
ATTENTION = 2  # items per form where a reply is evidently off: one in ten of DecoupledESC's twenty
MIN_WORDS = 5  # different words that make the shuffle of a reply evidently off
MIN_SECONDS = 8.0  # median per item: nobody reads a dialogue and answers four questions in less
MAX_SHARE, MIN_ANSWERS = 0.9, 12  # share of one answer that is flagged, and the answers that it takes


class HumanEvalError(KnownError):
    """A study or an answer file can't be used; one line that says which file, row and field, and what to do."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Item(_Stored):
    """Two replies to a context of (role, text), or one; without ``systems`` it is an attention item."""

    turn: str
    dialogue: str
    context: tuple[tuple[str, str], ...]
    replies: tuple[str, ...]
    systems: tuple[str, ...]


class Study(_Stored):
    """A study with its unblinding.  ``items`` by opaque id; ``forms``: rater -> item -> is its second reply shown first?"""

    kind: Literal["pairs", "scores"]
    systems: tuple[str, ...]
    criteria: dict[str, str]
    items: dict[str, Item]
    forms: dict[str, dict[str, bool]]

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that tie an answer file to this study and say nothing about it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def export(
    dialogues: Sequence[corpus.Dialogue],
    replies: Replies,
    folder: Path,
    samples: int,
    raters: int,
    kind: str,
    seed: int,
) -> list[Path]:
    """Writes a page per rater and ``key.json``; gives the pages, which need a browser and nothing else.

    At most one turn per dialogue is sampled, none after which the seeker has said nothing or to which all systems say
    the same.  Forms quote the corpus: choose a ``folder`` that is not committed.

    Raises HumanEvalError for too few turns, a wrong number of systems, or a folder with the key of another study.
    """
    if kind not in CHOICES or not replies or kind == "pairs" and len(replies) != 2 or samples < 1 or raters < 1:
        asked = f"kind {kind!r}, systems {list(replies)}, {samples} samples, {raters} raters"
        raise HumanEvalError(f"{asked}: ask for pairs of two systems or scores of any, and for samples and raters")
    rng = random.Random(seed)
    candidates: list[corpus.Turn] = []
    for dialogue in dialogues:
        fit = []
        for turn in corpus.turns(dialogue):
            said = [of_system.get(turn.id) for of_system in replies.values()]
            if all(said) and turn.context[-1].text.strip() and (len(said) == 1 or len(set(said)) > 1):
                fit.append(turn)
        candidates += rng.sample(fit, min(1, len(fit)))
    if len(candidates) < samples:
        raise HumanEvalError(
            f"{len(candidates)} dialogues have a turn to judge, and {samples} samples were asked for; ask for fewer, or "
            "take more test dialogues (the real ESConv, if the replies belong to it: decoupled-esc data fetch)"
        )
    turns = sorted(rng.sample(candidates, samples), key=lambda turn: turn.id)
    return _write_forms(make_study(turns, replies, raters, kind, seed), folder)


def make_study(turns: Sequence[corpus.Turn], replies: Replies, raters: int, kind: str, seed: int) -> Study:
    """Every rater judges every reply, in an order of the rater's own and with attention items of the rater's own.

    Each system is reply 1 in half of each rater's items and in half of each item's forms, give or take one.
    """
    rng = random.Random(seed)
    order = rng.sample(turns, len(turns))
    items: dict[str, Item] = {}

    def add(turn: corpus.Turn, said: Sequence[str], systems: Sequence[str]) -> str:
        while (made := f"{rng.randrange(16**6):06x}") in items:
            pass
        context = [(message.role, message.text) for message in turn.context]
        fields = {"turn": turn.id, "dialogue": turn.dialogue, "context": context, "replies": said, "systems": systems}
        items[made] = Item.model_validate(fields, strict=False)
        return made

    groups = [tuple(replies)] if kind == "pairs" else [(system,) for system in replies]
    judged = [add(turn, [replies[name][turn.id] for name in group], group) for turn in order for group in groups]
    first, forms = rng.randrange(2), {}
    for rater in range(raters):
        # As on a chessboard: of each rater's items, and of each item's raters, every second one.
        form = [(item, kind == "pairs" and (number + rater + first) % 2 == 1) for number, item in enumerate(judged)]
        hosts = rng.sample(order, len(order))
        checks = [add(*_attention(hosts[k % len(hosts)], order, replies, kind, rng), ()) for k in range(ATTENTION)]
        side = rng.random() < 0.5
        form += [(item, kind == "pairs" and side != bool(k % 2)) for k, item in enumerate(checks)]
        forms[f"rater-{rater + 1:0{len(str(raters))}}"] = dict(rng.sample(form, len(form)))
    return Study(kind=kind, systems=tuple(replies), criteria=CRITERIA, items=items, forms=forms)


def _attention(host: corpus.Turn, turns: Sequence[corpus.Turn], replies: Replies, kind: str, rng: random.Random):
    """(host, replies), the last of them another dialogue's with its words mixed."""
    good = rng.choice([said[host.id] for said in replies.values()])
    others = [said[t.id].split() for t in turns if t.dialogue != host.dialogue for said in replies.values()]
    others = [words for words in others if len(set(words)) >= MIN_WORDS]
    if not others:
        raise HumanEvalError(f"attention items need replies of {MIN_WORDS} different words; ask for more samples")
    words = mixed = rng.choice(others)
    while mixed == words:
        mixed = rng.sample(words, len(words))
    return host, [good, " ".join(mixed)] if kind == "pairs" else [" ".join(mixed)]


def _write_forms(study: Study, folder: Path) -> list[Path]:
    key, stored, written = folder / "key.json", study.model_dump_json().encode(), []
    if key.exists() and key.read_bytes() != stored:
        raise HumanEvalError(f"{key}: belongs to another study, which can't be read without it; choose another folder")
    for part in ("forms", "answers"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    key.write_bytes(stored)
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    for rater, form in study.forms.items():
        shown = [(id, study.items[id].context, study.items[id].replies[:: -1 if form[id] else 1]) for id in form]
        page = {"study": study.id, "rater": rater, "choices": list(CHOICES[study.kind]), "items": shown}
        data = json.dumps(page | {"criteria": study.criteria}, ensure_ascii=False)
        written.append(folder / "forms" / f"{rater}.html")
        # Without any "<", no reply can end the script element.
        written[-1].write_text(template.replace("{{form}}", data.replace("<", "\\u003c")), encoding="utf-8")
    return written


class Answer(_Stored):
    """What one rater said of one item, as shown: criterion -> choice; criteria that were left out are absent."""

    study: str
    rater: str
    item: str
    values: dict[str, str]
    seconds: float = Field(default=math.nan, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> "Answer":
        study: Study = info.context
        form, choices = study.forms.get(self.rater, {}), CHOICES[study.kind]
        known = [("study", self.study, [study.id]), ("rater", self.rater, study.forms), ("item", self.item, form)]
        known += [("values", name, study.criteria) for name in self.values]
        for field, value, allowed in known + [(name, said, choices) for name, said in self.values.items()]:
            if value not in allowed:
                raise ValueError(f"field {field}: {value[:40]!r} is not one of {', '.join(allowed)}")
        return self


ANSWERS = TypeAdapter(list[Answer])


def _read(path: Path, parse: Callable[[bytes], Any]) -> Any:
    """``parse`` of the bytes of ``path``; a HumanEvalError of one line, whatever is wrong with them."""
    try:
        return parse(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = [f"answer {part + 1}" if isinstance(part, int) else f"field {part[:40]!r}" for part in first["loc"]]
        problem = ", ".join([*place, first["msg"].removeprefix("Value error, ")])
    except OSError as error:
        problem = str(error)
    raise HumanEvalError(f"{path}, {problem}; correct it, or get the file again as the export or the page saved it")


def read_answers(folder: Path, study: Study) -> pd.DataFrame:
    """One line per rater, item and criterion that was answered: what was said, and its value unblinded.

    Several files of one rater (an early one and the final one, a copy) are joined.  Raises HumanEvalError for a file
    that can't be read or doesn't belong to the study, files that contradict each other, and if nothing is answered.
    """
    found: dict[tuple[str, str, str], dict] = {}
    for path in sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() == ".json"):
        for answer in _read(path, partial(ANSWERS.validate_json, context=study)):
            item = study.items[answer.item]
            row = {"rater": answer.rater, "item": answer.item, "dialogue": item.dialogue, "path": path}
            row |= {"system": " ".join(item.systems), "attention": not item.systems}
            sign = -1 if study.forms[answer.rater][answer.item] else 1
            for name, said in answer.values.items():
                old = found.get(at := (answer.rater, answer.item, name), {"said": said, "seconds": math.nan})
                if old["said"] != said:
                    where = f"{path}, field {name} of item {answer.item} of {answer.rater}: contradicts {old['path']}"
                    raise HumanEvalError(f"{where}; keep the file that the rater means, and move the other")
                told = {"criterion": name, "said": said, "value": sign * CHOICES[study.kind][said]}
                found[at] = row | told | {"seconds": np.fmax(old["seconds"], answer.seconds)}
    if not found:
        raise HumanEvalError(f"{folder}: holds no answers; put the .json files that raters sent back there")
    return pd.DataFrame(found[at] for at in sorted(found))


def quality_flags(said: pd.DataFrame, kind: str) -> list[str]:
    """What speaks against using the answers of one rater; nobody is excluded by it."""
    # A reply with mixed words is worse on most criteria and better on none, or is in the lower half of the scale.
    checks = said[said.attention].groupby("item").value
    passed = [((v > 0).mean() > 0.5 and v.min() >= 0) if kind == "pairs" else (v < 3).mean() > 0.5 for _, v in checks]
    flags = [f"passed {sum(passed)} of {len(passed)} attention items"] if 2 * sum(passed) <= len(passed) > 0 else []
    seconds = said.groupby("item").seconds.max().median()
    if seconds < MIN_SECONDS:  # not so where no time is known
        flags.append(f"took {seconds:.1f} s per item (median), under {MIN_SECONDS:.0f} s")
    judged = said[~said.attention].said
    if len(judged) >= MIN_ANSWERS and (share := judged.value_counts(normalize=True)).iloc[0] >= MAX_SHARE:
        flags.append(f"answered {share.index[0]!r} in {share.iloc[0]:.0%} of {len(judged)} answers")
    return flags


def criterion_result(told: pd.DataFrame, study: Study, **resampling: int) -> dict[str, Any]:
    """Estimates on one criterion from its lines of `read_answers`, less attention items and excluded raters.

    Pairs: shares of win, tie and lose of the first system against the second, in %.  Scores: means, and paired differences.
    95% intervals are over dialogues, for *these* raters.  Agreement: Krippendorff's alpha, ordinal; Fleiss' kappa on the
    items with the commonest number of raters.  What is undefined, as with one rater, is None.
    """
    names = sorted(set(told.dialogue))
    weights = cluster_weights(len(names), **resampling)

    def mean(values: pd.Series) -> Resampled:
        by_dialogue = values.groupby(told.dialogue).agg(["sum", "count"]).reindex(names, fill_value=0)
        return bootstrap(weights, lambda times: ratio_of_sums(times, *by_dialogue.to_numpy().T))

    def finish(scores: dict[str, Resampled]) -> dict[str, Estimate]:
        return {name: s.estimate() if len(names) > 1 else Estimate(s.value) for name, s in scores.items()}

    if study.kind == "pairs":
        found = finish({word: mean(100 * (told.value == v)) for word, v in (("win", 1), ("tie", 0), ("lose", -1))})
    else:
        means = {system: mean(told.value[told.system == system]) for system in study.systems}
        differences = {f"{a} - {b}": means[a] - means[b] for a, b in combinations(study.systems, 2)}
        found = {"means": finish(means), "differences": finish(differences)}

    ratings = told.pivot(index="rater", columns="item", values="value")
    groups = told.groupby("item").dialogue.first()
    number = ratings.notna().sum()
    full = number == number[number > 1].mode().max()

    def agreement(coefficient: Callable[..., Estimate], items: pd.Series, **level: str) -> Estimate | None:
        with suppress(Undefined):
            if full.any():
                return coefficient(ratings.loc[:, items].to_numpy(), list(groups[items]), **level, **resampling)

    fleiss, alpha = agreement(fleiss_kappa, full), agreement(krippendorff_alpha, number > 0, level="ordinal")
    agreed = {"fleiss": fleiss, "fleiss_items": int(full.sum()), "alpha": alpha}
    return {**found, "answers": len(told), "agreement": agreed}


def report(folder: Path, exclude: Sequence[str], **resampling: int) -> str:
    """What the raters of the study in ``folder`` said, as text; in full in ``folder/outcome.json``."""
    study = _read(folder / "key.json", Study.model_validate_json)
    answers = read_answers(folder / "answers", study)
    if unknown := sorted(set(exclude) - study.forms.keys()):
        raise HumanEvalError(f"exclude names {unknown[0]!r}; the raters are {', '.join(study.forms)}")
    lines = []
    for rater, form in study.forms.items():
        mine = answers[answers.rater == rater]
        complete = (mine.groupby("item").size() == len(study.criteria)).sum()
        state = "left out" if rater in exclude else "; ".join(quality_flags(mine, study.kind)) or "no flag"
        lines.append(f"{rater}: {complete} of {len(form)} items, {state}")
    counted = answers[~answers.attention & ~answers.rater.isin(exclude)]
    raters, criteria = sorted(set(counted.rater)), {}
    size = {"items": counted["item"].nunique(), "dialogues": counted.dialogue.nunique()}
    systems = " against ".join(study.systems)
    lines.append(f"{systems}: {size['items']} items of {size['dialogues']} dialogues, {len(raters)} raters")
    for name in study.criteria:
        told = counted[counted.criterion == name]
        if told.empty or study.kind == "scores" and set(study.systems) - set(told.system):
            raise HumanEvalError(f"{folder}: too few answers on {name}; wait for more, or exclude fewer raters")
        found = criteria[name] = criterion_result(told, study, **resampling)
        said = [f"{system} {_format(mean, 2)}" for system, mean in found.get("means", {}).items()]
        said += [f"{word} {_format(found[word], 0)}%" for word in ("win", "tie", "lose") if word in found]
        lines.append(f"{name}: {', '.join(said)}, Krippendorff's alpha {_format(found['agreement']['alpha'], 2)}")
    outcome = {"systems": study.systems, "criteria": criteria, "raters": raters, "excluded": sorted(set(exclude))}
    plain = {"default": lambda estimate: {name: getattr(estimate, name) for name in ("value", "low", "high")}}
    stored = json.dumps(outcome | size, **plain, ensure_ascii=False)
    (folder / "outcome.json").write_text(stored + "\n", encoding="utf-8")
    return "\n".join(lines)


def _format(estimate: Estimate | None, decimals: int) -> str:
    if estimate is None:
        return "undefined"
    interval = "" if estimate.low is None else f" [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"
    return f"{estimate.value:.{decimals}f}{interval}"
