# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 18 Published systems on one scoreboard
#
# Papers on emotional support compare systems by copying numbers from one another.
# Four of them published the replies behind their numbers: Kang et al. {cite}`kang2024bias`, CauESC {cite}`chen2024cauesc`, TransESC {cite}`zhao2023transesc`, and TransESC with Muffin {cite}`wang2024muffin`; DecoupledESC {cite}`zhang2025decoupledesc` released those of its two SFT models.
# Here all of them, ours and the human reference go through one metric code, with intervals clustered by dialogue.
#
# **Size hardly shows.**
# Our vanilla-sft has 4.5 million parameters under profile laptop, CauESC and TransESC are fine-tuned from a BlenderBot of 90 million, and DecoupledESC's models have 7 and 8 billion.
# Their F1 is {glue:text}`sft_f1`; {glue:text}`cauesc_f1` and {glue:text}`trans_f1`; {glue:text}`qwen_f1` and {glue:text}`llama_f1`.
# On the same turns ours differs from Qwen's by {glue:text}`sft_qwen` and from Llama's by {glue:text}`sft_llama`, and these two from each other by {glue:text}`llama_qwen`.
# Of {glue:text}`pairs` pairs of systems, {glue:text}`blurred_f1` are told apart by F1 in neither variant; most of these pairs answer different test sets, so that they differ in dialogues as well as in systems.
#
# **Muffin changes nothing that these metrics see.**
# Its authors report fewer unhelpful replies; by these metrics TransESC with it differs from TransESC by {glue:text}`muffin_f1` in F1 and {glue:text}`muffin_q` in macro F1 of strategies.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies that experimental systems wrote; none of it is counselling, and no reply is shown.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, judge_tables
from decoupled_esc.present import scoreboard as shown
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
board = book["scoreboard"]
absent = isinstance(board, Missing)
figures.glue_numbers(profile_name=book.label)
METRICS = {"B-1": "BLEU-1", "F1": "F1", "R-L": "ROUGE-L", "Q": "macro F1 (Q)", "B": "bias B"}


# %% tags=["hide-input", "remove-output"]
source = book.source("published replies on their own test sets, 95% intervals by dialogue")
figure = figures.nothing_here(board.reason, source) if absent else shown.forest(board, METRICS, source)
figures.show("fig_scoreboard", figure)


def said(name: str, system: str, metric: str, variant: str = "paper") -> str:
    """A score as text; a dash where the system is not there."""
    row = None if absent or name not in board.scores else board.scores[name].systems.get(system)
    return format_estimate(row and row[variant].get(metric), 2 if metric == "B" else 1)


swaps = {} if absent else {key: shown.swapped(board, key) for key in METRICS}
sets = {} if absent else board.sets
own = "DecoupledESC's split"
def gap(group: str, contrast: str, metric: str) -> str:
    """A paired difference as text: of one test set, or (``group`` after "shared ") on the turns shared with ours."""
    found = {} if absent else board.paired if group.startswith("shared ") else board.scores
    name = group.removeprefix("shared ")
    row = found[name].contrasts.get(contrast) if name in found else None
    return format_estimate(row and row["paper"].get(metric), 2 if metric == "B" else 1, sign="+")


QWEN, LLAMA = "Qwen2.5-7B, SFT", "Llama-3.1-8B, SFT"
figures.glue_numbers(
    pairs=swaps["B-1"][0] if swaps else "–", blurred_q=swaps["Q"][2] if swaps else "–", blurred_f1=swaps["F1"][2] if swaps else "–",
    swapped_b1=swaps["B-1"][1] if swaps else "–", swapped_f1=swaps["F1"][1] if swaps else "–",
    trans_turns=f"{sets['TransESC'].turns:,}" if "TransESC" in sets else "–", trans_dialogues=f"{sets['TransESC'].dialogues:,}" if "TransESC" in sets else "–",
    kang_rows=f"{sets['Kang et al. 2024'].rows:,}" if "Kang et al. 2024" in sets else "–", kang_turns=f"{sets['Kang et al. 2024'].turns:,}" if "Kang et al. 2024" in sets else "–",
    cauesc_f1=said("CauESC", "CauESC", "F1"), trans_f1=said("TransESC", "TransESC", "F1"), qwen_f1=said(own, QWEN, "F1"), llama_f1=said(own, LLAMA, "F1"), sft_f1=said(own, "vanilla-sft", "F1"),
    sft_qwen=gap(own, f"vanilla-sft - {QWEN}", "F1"), sft_llama=gap(own, f"vanilla-sft - {LLAMA}", "F1"), llama_qwen=gap(own, f"{LLAMA} - {QWEN}", "F1"),
    muffin_f1=gap("TransESC", "TransESC + Muffin - TransESC", "F1"), muffin_q=gap("TransESC", "TransESC + Muffin - TransESC", "Q"),
    qwen_cauesc=gap("shared CauESC", f"{QWEN} - CauESC", "F1"), llama_cauesc=gap("shared CauESC", f"{LLAMA} - CauESC", "F1"),
    qwen_trans=gap("shared TransESC", f"{QWEN} - TransESC", "F1"), llama_trans=gap("shared TransESC", f"{LLAMA} - TransESC", "F1"),
    llama_distinct=said(own, LLAMA, "D-2", "standard"),
)  # fmt: skip

# %% [markdown]
# ```{glue:figure} fig_scoreboard
# :name: fig-scoreboard
# :alt: BLEU-1, F1, ROUGE-L, macro F1 of strategies and preference bias of all systems, grouped by test set, each in two variants with 95% intervals.
#
# All systems, grouped by test set: full marks are the variant that papers print, hollow marks the textbook's.
# B: lower is better, all others higher. Profile {glue:text}`profile_name`.
# ```
#
# ## What each system was asked
#
# A row of these files has no id.
# Its turn of ESConv is the one with the words of its reference after the same last message, which leaves few rows open.

# %% tags=["hide-input"]
results_table(board if absent else shown.test_sets(board), "Test sets, matched to ESConv; the human reference of a set is what people wrote at its turns.")

# %% [markdown]
# The test sets share almost nothing, so a number from one paper beside a number from another compares two samples of dialogues as well as two systems.
# TransESC's is not made of dialogues: its {glue:text}`trans_turns` turns come from {glue:text}`trans_dialogues` of 1,300 dialogues, about two from each, and whatever of the others is used for training stands before or after a test turn of the same conversation, where a context can hold the very reply that is asked for.
# Most dialogues of every foreign test set lie in the training split of DecoupledESC: a model that was trained on that split, as ours were, must not be scored on them.
# Kang et al. ask for {glue:text}`kang_rows` replies at {glue:text}`kang_turns` turns, many of them twice, after windows of two lengths.
#
# ## Do the files give the printed numbers?
#
# Before any comparison, each file has to give what its own repository prints for it.

# %% tags=["hide-input"]
results_table(board if absent else shown.reproduced(board), "Printed numbers of the repositories beside this code's; BLEU is the textbook's, F1 and ROUGE-L are means over replies with beta 1.2.")

# %% [markdown]
# Accuracy is exact, and TransESC's numbers agree to a hundredth of a point or two.
# CauESC's differ by up to two tenths, because its repository counts pieces of words, not words.
# The formulas say why papers can't be put side by side as printed: these repositories print BLEU of the whole corpus, DecoupledESC a mean over replies, under one name.
#
# ## On the same turns
#
# Where a foreign test set and ours share turns, systems can be compared on those, against the same references and with paired differences.

# %% tags=["hide-input"]
results_table(board if absent else shown.paired(board, ("B-1", "F1", "Q", "B")), f"Ours minus theirs on the turns of both test sets, variant paper, 95% intervals by dialogue; profile {book.label}.")

# %% [markdown]
# Where the set is CauESC's, the model of 90 million parameters has the higher F1: Qwen's differs by {glue:text}`qwen_cauesc`, Llama's by {glue:text}`llama_cauesc`.
# Where it is TransESC's, by {glue:text}`qwen_trans` and {glue:text}`llama_trans`.
# Intervals over the eleven dialogues that CauESC shares with ours are too narrow, as bootstraps over few clusters are, and TransESC may have seen these dialogues; so this is a hint that overlap with a reference rewards careful decoding more than size, not a ranking.
#
# ## Which rankings depend on the formula?

# %% tags=["hide-input"]
results_table(board if absent else shown.places(board, tuple(METRICS)), "Place of every system, by the papers' formula / by the textbook's; 1 is best.")

# %% [markdown]
# Of {glue:text}`pairs` pairs of systems, {glue:text}`swapped_b1` change their order by BLEU-1 and {glue:text}`swapped_f1` by F1 with the formula alone.
# By macro F1 of strategies, {glue:text}`blurred_q` of the pairs can't be told apart.
# Llama's corpus-level Distinct-2, {glue:text}`llama_distinct`, has its width from a single runaway reply of more than six thousand words: corpus-level metrics hang on such a one.
#
# ## Is a published system's bias its decoding's?
#
# TransESC and CauESC choose the most probable strategy, and their repositories publish the scores of all eight.
# So the sweep of [chapter 14](14_measure_preference_bias.ipynb) can be run on them: what would they have scored, had they been sampled?

# %% tags=["hide-input", "remove-output"]
SWEPT = {"B": "preference bias B", "Q_W": "weighted F1", "Q": "macro F1"}
source = book.source("published scores of the strategies, 95% intervals, means of ten samples", counted=True)
figure = figures.nothing_here(board.reason if absent else "no published scores here", source) if absent or not board.sweeps else figures.over_temperatures(board.sweeps, SWEPT, source)
figures.show("fig_published_temperatures", figure)


def at(system: str, temperature: float, key: str = "B") -> str:
    """A score of the sweep as text."""
    rows = () if absent else board.sweeps.get(system, ())
    return format_estimate(next((getattr(row, key) for row in rows if row.temperature == temperature), None), 2 if key == "B" else 1)


figures.glue_numbers(
    trans_calibration="–" if absent or "TransESC" not in board.calibration else f"{board.calibration['TransESC'].error:.0f}",
    cauesc_calibration="–" if absent or "CauESC" not in board.calibration else f"{board.calibration['CauESC'].error:.0f}",
    trans_argmax=at("TransESC", 0.0), trans_one=at("TransESC", 1.0), cauesc_argmax=at("CauESC", 0.0), cauesc_one=at("CauESC", 1.0),
    trans_q_argmax=at("TransESC", 0.0, "Q"), trans_q_one=at("TransESC", 1.0, "Q"),
)

# %% [markdown]
# ```{glue:figure} fig_published_temperatures
# :name: fig-published-temperatures
# :alt: Preference bias, weighted F1 and macro F1 of CauESC, TransESC and TransESC with Muffin over the temperature at which their published scores are sampled.
#
# Published systems over temperatures; 0 is what their papers report.
# ```
#
# Yes, where the model is unsure.
# TransESC's B is {glue:text}`trans_argmax` as published and {glue:text}`trans_one` sampled at T = 1, and its macro F1 goes from {glue:text}`trans_q_argmax` to {glue:text}`trans_q_one`: the same weights, and most of the bias gone with a part of the proficiency.
# CauESC's goes from {glue:text}`cauesc_argmax` to {glue:text}`cauesc_one` only, because its probabilities are close to 0 and 1: they are {glue:text}`cauesc_calibration` points more confident than right (expected calibration error), TransESC's {glue:text}`trans_calibration`.
# So two published values of B compare decodings and confidences before they compare models.
#
# ## All metrics

# %% tags=["hide-input"]
results_table(board if absent else shown.levels(board, "paper"), f"As papers print them (variant paper), 95% intervals by dialogue; profile {book.label}. Of the human reference only Distinct says anything.")

# %% tags=["hide-input"]
results_table(board if absent else shown.levels(board, "standard"), f"As the textbooks define them (variant standard), 95% intervals by dialogue; profile {book.label}.")

# %% [markdown]
# ## By offline judges
#
# **What these judges are worth decides how far the table may be read, and it is little.**
# The scale of empathy agrees with people's ratings of other posts at a quadratic kappa of {glue:text}`scale_worth`, and its sum goes with what the seekers of ESConv said of their supporters at a rank correlation of {glue:text}`scale_seekers` ([chapter 03](03_observe_errors.ipynb)).
# The error classifier agrees with GPT's labels of writers that it does not know at a kappa of {glue:text}`classifier_worth`, and its share of *None* has been off by up to {glue:text}`classifier_off` points between two of them.
# A judge that learned which of two chats a person preferred {glue:text}`learned_beats` a count of words on further writers ([appendix Judges](92_read_judges.ipynb)); what it is worth on single replies nothing tells, so it does not judge here.
# Of {glue:text}`judged_gaps` differences from the human reference in *no error*, {glue:text}`judged_beyond` lie with their whole interval beyond what the classifier has been off.
#
# Nobody has rated these replies.
# The number of words stands beside the judges, because a longer reply has more room for what they look for.

# %% tags=["hide-input"]
judged, scale, classifier = book["scoreboard-judged"], book["empathy-scale"], book["error-classifier"]
off = None if isinstance(classifier, Missing) else classifier.difference_errors()["None"]
gaps, (_, transferred) = shown.judged_gaps(judged), judge_tables.learned_rows(book["learned-judges"])
figures.glue_numbers(
    scale_worth="–" if isinstance(scale, Missing) else f"{min(found.kappa.value for found in scale.posts.values()):.2f} to {max(found.kappa.value for found in scale.posts.values()):.2f}",
    scale_seekers="–" if isinstance(scale, Missing) else format_estimate(scale.seekers.dialogues["esconv"].correlations["all three"], 2),
    classifier_worth="–" if off is None else format_estimate(classifier.unseen_writers["all"].kappa, 2), classifier_off="–" if off is None else f"{off:.0f}",
    learned_beats=judge_tables.beats_length(transferred and transferred.over_writers()),
    judged_gaps=len(gaps), judged_beyond="–" if off is None else sum(gap.low > off or gap.high < -off for gap in gaps),
    judged_replies="–" if isinstance(judged, Missing) else f"{judged.replies:,}",
    judged_seconds="–" if isinstance(judged, Missing) else f"{book.stored('scoreboard-judged').provenance['wall_seconds']:.0f}",
)  # fmt: skip
results_table(
    shown.judged(judged),
    f"Offline judges, means over replies, 95% intervals by dialogue; profile {book.label}. Empathy: sum of three levels. No error: mean probability by the error classifier, which has learned from Qwen's and Llama's labels in other dialogues. Compare inside a test set alone.",
)

# %% [markdown]
# The {glue:text}`judged_replies` replies took {glue:text}`judged_seconds` seconds to judge on one core, with training the judges and all intervals.
#
# ## Put your own system here
#
# One line of JSON per test turn of DecoupledESC's split, and one command.
# It comes with this book's code (installed by `make book`, or by pip as its README says), needs no run of the book, and fetches ESConv, whose turns it asks for:
#
# ```
# decoupled-esc score --turns > turns.jsonl   # id, context and gold strategy of each test turn
# ```
#
# ```
# {"id": "esconv/0012/05", "strategy": "Question", "reply": "What worries you most about it?"}
# ```
#
# ```
# decoupled-esc score my-system.jsonl
# ```
#
# It prints every metric in both variants with intervals, the place among the systems of this book, and the paired differences from each.
# The ids are those of `decoupled_esc.corpus.turns`; `strategy` is one of the eight names, or null.
