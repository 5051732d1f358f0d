"""What judges said of the systems' replies, as tables of text (chapters 08, 10, 12); `Missing` where none was asked."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.evaluate import Estimate
from decoupled_esc.evaluate.agreement import agreed
from decoupled_esc.evaluate.corrected import CorrectedShares
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judges import Agreement
from decoupled_esc.evaluate.learned_judges import JUDGE, LENGTH, TRANSFERRED, WITH_MODEL, LearnedAccuracy
from decoupled_esc.evaluate.offline import OutOfSourceValidity
from decoupled_esc.evaluate.published_judges import FIRST, LONGER, WHICH_BOT, PairAccuracy
from decoupled_esc.evaluate.published_judges import Agreement as RatersAgreement
from decoupled_esc.experiments.agreement import JudgementAgreement, LLMJudgesWorth, LLMJudgeWorth
from decoupled_esc.experiments.corrected import ErrorRates
from decoupled_esc.experiments.judging import ErrorClassifierWorth, ErrorsOverSeeds, Judged, JudgeScores
from decoupled_esc.experiments.learned_judges import LearnedJudges
from decoupled_esc.generate.answers import Readable
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import questions
from decoupled_esc.present.replication import JUDGED
from decoupled_esc.present.tables import format_estimate

LEARNED = tuple(f"{name}–expert" for name in (JUDGE, LENGTH, WITH_MODEL))
MODEL_READS = LEARNED[-1]
NOT_ASKED = Missing("no LLM was asked, or what it answered is not here")


def _by_judge(judged: Judged | Missing, rows: Callable[[JudgeScores], Iterable[dict]]) -> pd.DataFrame | Missing:
    """``rows``: what one judge said -> its rows, text."""
    if isinstance(judged, Missing):
        return judged
    found = [{"judge": judge, **row} for judge, said in judged.judges.items() for row in rows(said)]
    return pd.DataFrame(found or [{"judge": "–", "pair": "not asked"}]).set_index("judge")


def _cells(row: Mapping[str, Estimate], columns: Sequence[str], decimals: int) -> dict[str, str]:
    return {key: format_estimate(row.get(key), decimals) for key in columns}


def judge_scores(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """Mean scores of every system by every judge of the profile, a row each; as text with 95% intervals.

    The last column leaves out the turns after a blank message, at which the judge saw nothing that was said.
    """

    def rows(said):
        words = said.scores_after_words.systems if said.scores_after_words else {}
        for system, row in said.scores.systems.items():
            after = format_estimate(words.get(system, {}).get("Emp"), 2)
            yield {"system": system, **_cells(row, JUDGED, 2), "Emp, after words": after}

    return _by_judge(judged, rows)


def judge_errors(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """Share of each psychological error, in per cent, by every judge of the profile."""
    return _by_judge(
        judged,
        lambda said: [{"system": system, **_cells(row, LABELS, 0)} for system, row in said.errors.systems.items()],
    )


JUDGES_ERROR = "judge's error, unknown writer (±)"


def offline_errors(
    found: ErrorsOverSeeds | Missing, worth: ErrorClassifierWorth | Missing, titles: Mapping[str, str]
) -> pd.DataFrame | Missing:
    """Shares of each error of systems, or differences ``a - b`` between them, by the offline classifier, in per cent.

    ``titles``: title -> system or difference, all of one kind.  The last row says by how much the classifier has been
    off in the same statistic, for writers from which it did not learn; it learned from none of ours.
    """
    if isinstance(found, Missing):
        return found
    single = set(titles.values()) <= set(found.systems)
    own = found.systems if single else found.contrasts
    rows = {title: _cells(own[name], LABELS, 1) for title, name in titles.items()}
    if isinstance(worth, Missing):
        return pd.DataFrame(rows | {JUDGES_ERROR: dict.fromkeys(LABELS, "not measured")}).T
    off = worth.share_errors() if single else worth.difference_errors()
    return pd.DataFrame(rows | {JUDGES_ERROR: {label: f"{off[label]:.1f}" for label in LABELS}}).T


def answer_errors(
    found: ErrorsOverSeeds | Missing, worth: ErrorClassifierWorth | Missing, difference: str, label: str, sign: int
) -> str:
    """`questions.answer` to a ``difference`` in the share of ``label``, beyond the judge's error for unknown writers."""
    if isinstance(found, Missing) or isinstance(worth, Missing):
        return "not decided"
    single = [of[difference][label] for of in found.by_seed.values()]
    bar = worth.difference_errors()[label]
    return questions.answer(sign, found.contrasts[difference][label], single, judge_error=bar)


NOTHING, IMPOSSIBLE = "nothing", "impossible: "


def _corrected(found: Estimate | None, least: float = 0.0) -> str:
    """A corrected share as text, or a difference (``least`` -100), marked where the interval lies wholly outside what is possible."""
    return NOTHING if found is None else IMPOSSIBLE * impossible(found, least) + format_estimate(found)


def impossible(found: Estimate | None, least: float = 0.0) -> bool:
    """Whether the whole interval lies below ``least`` or above 100: the correction's assumption fails there."""
    return found is not None and (found.high < least or found.low > 100)


def corrected_errors(
    judged: ErrorsOverSeeds | Missing, fixed: CorrectedShares | Missing, titles: Mapping[str, str]
) -> pd.DataFrame | Missing:
    """Shares of each error, or differences between systems, as judged and corrected in both ways; three rows for each of ``titles``."""
    for part in (judged, fixed):
        if isinstance(part, Missing):
            return part
    raw, rows = judged.systems | judged.contrasts, {}
    for title, name in titles.items():
        rows[f"{title}: as judged"] = _cells(raw[name], LABELS, 1)
        for way, table in {"by the matrix": fixed.matrix, "rectified": fixed.rectified}.items():
            least = 0.0 if name in judged.systems else -100.0
            rows[f"{title}: {way}"] = {label: _corrected(table[name][label], least) for label in LABELS}
    return pd.DataFrame(rows).T


def known_shares(rates: ErrorRates | Missing, titles: Mapping[str, str]) -> pd.DataFrame | Missing:
    """Shares of labelled writers by GPT's labels, as judged, and corrected by the labels of the others; ``titles``: writer -> title."""
    if isinstance(rates, Missing):
        return rates
    rows = {}
    for writer, of in rates.check.items():
        title = titles[writer]
        rows[f"{title}: by GPT's labels"] = {label: f"{found.labelled:.1f}" for label, found in of.items()}
        rows[f"{title}: as judged"] = {label: f"{found.judged:.1f}" for label, found in of.items()}
        rows[f"{title}: by the matrix"] = {label: _corrected(found.matrix) for label, found in of.items()}
        rows[f"{title}: rectified"] = {label: _corrected(found.rectified) for label, found in of.items()}
    return pd.DataFrame(rows).T


def covered(rates: ErrorRates) -> tuple[int, int, int]:
    """(known shares, those that the interval of the matrix correction holds, those that it calls impossible)."""
    found = [known for of in rates.check.values() for known in of.values()]
    matrix = [(known.labelled, known.matrix) for known in found]
    holds = sum(fixed is None or fixed.low <= told <= fixed.high for told, fixed in matrix)
    return len(found), holds, sum(impossible(fixed) for _, fixed in matrix)


def off_by(rates: ErrorRates) -> tuple[float, float]:
    """By how many points known shares are off in the mean: (as judged, corrected by the matrix), where it can be."""
    found = [known for of in rates.check.values() for known in of.values() if known.matrix is not None]
    count = max(len(found), 1)
    judged = sum(abs(known.judged - known.labelled) for known in found) / count
    return judged, sum(abs(known.matrix.value - known.labelled) for known in found) / count


def corrected_answer(
    judged: ErrorsOverSeeds | Missing, fixed: CorrectedShares | Missing, difference: str, label: str, sign: int
) -> str:
    """`questions.answer` to a ``difference`` in the share of ``label`` where both corrections give the same one; else not decided."""
    if isinstance(judged, Missing) or isinstance(fixed, Missing):
        return "not decided"
    single = [of[difference][label] for of in judged.by_seed.values()]
    cells = [table[difference][label] for table in (fixed.matrix, fixed.rectified)]
    found = {"not decided" if cell is None else questions.answer(sign, cell, single) for cell in cells}
    return found.pop() if len(found) == 1 else "not decided"


def decided(judged: ErrorsOverSeeds | Missing, fixed: CorrectedShares | Missing, difference: str) -> list[str] | None:
    """The labels whose share has a ``difference`` by both corrections; None where nothing was measured."""
    if isinstance(judged, Missing) or isinstance(fixed, Missing):
        return None
    return [one for one in LABELS if corrected_answer(judged, fixed, difference, one, 1) != "not decided"]


def selected_shares(
    worth: ErrorClassifierWorth | Missing, counts: Mapping[str, Mapping[str, int]], title: Mapping[str, str]
) -> pd.DataFrame | Missing:
    """Of replies that the judge of training picked for an error: how many GPT's labels would give it, as text, a row per error.

    ``counts``: kind of pair -> label -> rejected replies; ``title``: kind -> heading.
    """
    if isinstance(worth, Missing):
        return worth
    rows = {}
    replies = worth.training.by_source["all"].replies
    for label in taxonomy.ERRORS:
        judged = {title[kind]: 100 * own.get(label, 0) / max(1, sum(own.values())) for kind, own in counts.items()}
        rows[label] = {kind: f"{share:.1f}" for kind, share in judged.items()} | {
            "so labelled, of those it picks": format_estimate(precision(worth.training, label)),
            "so labelled, of all": f"{100 * worth.training.errors[label].labelled / replies:.1f}",
        }
    return pd.DataFrame(rows).T


def precision(training: OutOfSourceValidity, error: str) -> Estimate | None:
    """Of the replies by other writers that the judge gives ``error``, the share in per cent that GPT's labels give it; interval by kappa's."""
    found, replies = training.errors[error], training.by_source["all"].replies
    if not found.guessed:
        return None
    ends = (found.kappa.value, found.kappa.low, found.kappa.high)
    return Estimate(*(100 * agreed(k, found.labelled, found.guessed, replies) / found.guessed for k in ends))


def judge_pairs(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """How often the first of two systems was preferred in both orders, and how often the place in the question decided."""
    columns = ("win", "tie", "lose", "same_in_both_orders", "first_place", "second_place")
    return _by_judge(
        judged,
        lambda said: [
            {"pair": pair, "dimension": key}
            | {name.replace("_", " "): format_estimate(getattr(outcome, name), 0) for name in columns}
            for pair, dimensions in said.pairs.items()
            for key, outcome in dimensions.items()
        ],
    )


def judge_agreement(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """Of every judge with itself, asked again and in both orders, and with the others; a row each, as text."""
    if isinstance(judged, Missing):
        return judged

    def shown(found: Agreement) -> str:
        equal = "–" if found.equal is None else f"{found.equal:.0f}% equal"
        return f"{format_estimate(found.kappa, 2)} ({equal} of {found.items})"

    rows = {f"{judge}, asked again": again for judge, said in judged.judges.items() for again in said.repeats}
    for judge, said in judged.judges.items():
        rows |= {f"{judge}, {pair} in both orders": orders for pair, orders in said.orders.items()}
    rows |= judged.between
    cells = {what: {key: shown(found) for key, found in row.items()} for what, row in rows.items()}
    return pd.DataFrame(cells or {"asked once, alone": {"agreement": "nothing to compare"}}).T


def published_agreement(found: JudgementAgreement | Missing) -> pd.DataFrame | Missing:
    """Of people and LLMs with experts, in the published judgements: medians over dimensions, a row per group of raters."""
    if isinstance(found, Missing):
        return found
    rows = []
    for what, part in {"conversations": found.conversations, "replies": found.replies}.items():
        if isinstance(part, Missing):
            rows.append({"raters": "–", "rated": what, "dimensions": part.reason})
            continue
        for row in part.medians:
            measures = {"kappa": row.kappa, "kappa with each expert": row.each, "rank correlation": row.rank}
            cells = {name: format_estimate(value, 2) for name, value in measures.items()}
            where = {"rated": what, "dimensions": row.dimension, "pairs of ratings": f"{row.items:,}"}
            rows.append({"raters": row.raters, **where, **cells})
    return pd.DataFrame(rows).set_index("raters").fillna("–")


def _with_experts(row: RatersAgreement) -> dict[str, str]:
    measures = {"kappa with experts' median": row.kappa, "with each expert": row.each, "rank correlation": row.rank}
    return {name: format_estimate(value, 2) for name, value in measures.items()}


def learned_worth(
    found: LearnedJudges | Missing, rules: PairAccuracy | Missing, asked: LLMJudgesWorth | Missing = NOT_ASKED
) -> pd.DataFrame | Missing:
    """What every judge is worth, a row each: agreement with experts, and how often it picks the chat that a person preferred; as text.

    The learned judge of ratings and that of preferences share a row, as two uses of the same features.  ``asked``: an LLM
    behind a server, on the same conversations.
    """
    if isinstance(found, Missing):
        return found
    rows: dict[str, dict[str, str]] = {}
    for row in found.ratings.medians:
        rows[row.raters.removesuffix("–expert") if row.raters in LEARNED else row.raters] = _with_experts(row)
    rows |= {row.raters: _with_experts(row) for worth in _judges(asked).values() for row in _medians(worth)}
    for row in found.preferences.rows:
        rows.setdefault(row.judge, {}).update({
            "preference, new people": format_estimate(row.by_person), "new bot": format_estimate(row.new_writer),
            "new bot, minus length": format_estimate(row.new_over_length, sign="+"),
            "picks the longer": format_estimate(row.longer), "picks the earlier": format_estimate(row.first),
        })  # fmt: skip
    by_rule = {} if isinstance(rules, Missing) else {rule.rule: format_estimate(rule.accuracy) for rule in rules.rules}
    if by_rule:
        rows[WHICH_BOT] = {"preference, new people": by_rule[WHICH_BOT]}
        rows["people themselves"] = {"picks the longer": by_rule[LONGER], "picks the earlier": by_rule[FIRST]}
    return pd.DataFrame(rows).T.fillna("–")


def _judges(asked: LLMJudgesWorth | Missing) -> dict[str, LLMJudgeWorth]:
    return {} if isinstance(asked, Missing) else asked.judges


def _medians(worth: LLMJudgeWorth) -> list[RatersAgreement]:
    """Of a judge alone, and with its missing ratings as the middle of the scale where there are any."""
    found = () if isinstance(worth.ratings, Missing) else worth.ratings.medians
    return [row for row in found if row.raters != "expert–expert"]


def llm_judges(asked: LLMJudgesWorth | Missing) -> pd.DataFrame | Missing:
    """What every LLM judge is worth: with experts on conversations, and with GPT's labels of errors; a row each, as text."""
    if isinstance(asked, Missing):
        return asked
    rows = {}
    for judge, worth in asked.judges.items():
        errors, unread = worth.errors, f"{worth.unread:,}"
        for row in _medians(worth):
            rows[row.raters] = {**_with_experts(row), "ratings": f"{row.items:,}", "ratings missing": unread}
        rows.setdefault(f"{judge}–expert", {"ratings missing": unread})
        rows[f"{judge}, errors"] = {"labels": errors.reason} if isinstance(errors, Missing) else {
            "labels": f"{errors.replies - errors.unread:,}", "labels missing": f"{errors.unread:,}",
            "equal to GPT's, %": "–" if errors.equal is None else f"{errors.equal:.0f}", "kappa with GPT": format_estimate(errors.kappa, 2),
        }  # fmt: skip
    return pd.DataFrame(rows).T.fillna("–")


def readable_answers(found: Mapping[str, Readable] | Missing) -> pd.DataFrame | Missing:
    """What could be read of an LLM's answers, a row per role or question, as text; `Missing` where nothing was asked."""
    if isinstance(found, Missing) or not found:
        return found or NOT_ASKED

    def share(part: int, whole: int) -> str:
        return f"{100 * part / whole:.1f}" if whole else "–"

    return pd.DataFrame({
        what: {
            "questions": f"{one.questions:,}", "read at the first try, %": share(one.first, one.questions),
            "read in the end, %": share(one.read, one.questions), "calls": f"{one.calls:,}",
            "replaced by no preference": f"{one.replaced:,}",
        }
        for what, one in found.items()
    }).T  # fmt: skip


def learned_by_writer(found: LearnedJudges | Missing) -> pd.DataFrame | Missing:
    """The accuracy of preference on the pairs with each bot, as one from which nothing was learned, and minus length alone; as text."""
    if isinstance(found, Missing):
        return found
    rows = {}
    for row in found.preferences.rows:
        rows[row.judge] = {bot: format_estimate(share) for bot, share in row.by_writer.items()}
        if row.judge != LENGTH:
            gaps = row.by_writer_over_length.items()
            rows[f"{row.judge}, minus length"] = {bot: format_estimate(gap, sign="+") for bot, gap in gaps}
    return pd.DataFrame(rows).T


def learned_rows(found: LearnedJudges | Missing) -> tuple[LearnedAccuracy | None, LearnedAccuracy | None]:
    """What the judge of preference is worth whose features were chosen inside iEval, and on experts' ratings; None where there is none."""
    rows = {} if isinstance(found, Missing) else {row.judge: row for row in found.preferences.rows}
    return rows.get(JUDGE), rows.get(TRANSFERRED)


def with_model(found: LearnedJudges | Missing) -> LearnedAccuracy | None:
    """What the judge of preference is worth that may read with a language model; None where none did."""
    rows = () if isinstance(found, Missing) else found.preferences.rows
    return next((row for row in rows if row.judge == WITH_MODEL), None)


def beats_length(gap: Estimate | None) -> str:
    """Whether a learned judge whose accuracy minus that of length alone is ``gap`` is better, in words."""
    if gap is None:
        return "was not measured against"
    return "beats" if gap.low > 0 else "does worse than" if gap.high < 0 else "can't be told from"


def learned_agreement(found: LearnedJudges | Missing) -> pd.DataFrame | Missing:
    """Quadratic kappa with the experts' median by dimension, a column per rater, and the learned judge's rank correlation; last row medians."""
    if isinstance(found, Missing):
        return found
    table, rows = found.ratings, {}
    for row in (*table.rows, *table.medians):
        title = f"{row.dimension} ({row.sample})" if row in table.rows else "median"
        cells = rows.setdefault(title, {})
        cells[row.raters] = format_estimate(row.kappa, 2)
        if row.raters == f"{JUDGE}–expert":
            cells["its rank correlation"] = format_estimate(row.rank, 2)
    return pd.DataFrame(rows).T.fillna("–")
