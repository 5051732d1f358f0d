# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Observations: the errors that fine-tuning leaves
#
# DecoupledESC starts from an observation: models fine-tuned on good conversations still make the mistakes that are found in failed ones, among people {cite}`zhang2025decoupledesc`; it calls them {term}`psychological errors <psychological error>`.
# The authors released the replies of their two SFT models and what GPT said of each.
# This chapter regenerates Figure 2 from them, asks how far such labels can be trusted, and scores the released replies again to see whether Table 3 comes out.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models, and about conversations that went badly.
# They describe texts, and no person; none of this is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import json

import numpy as np
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.present import figures, replication
from decoupled_esc.present.replication import written
from decoupled_esc.present.tables import plain
from decoupled_esc.workflow import open_chapter

book = open_chapter(globals())
released = book.result("released").payload
missing = released.get("missing")
figures.say(profile_name=book.label)

# %% [markdown]
# ## Five ways to fail
#
# The names are the paper's (appendix A.2); definitions and examples are ours.
# In each example somebody has just written: *"I lost my job on Friday. I haven't told anyone, and I can't sleep."*

# %% tags=["hide-input"]
EXAMPLES = {
    "Strategy Mismatch": "Have you tried searching on several job boards at once?",
    "Lack of Empathy": "OK. Which kind of job was it?",
    "Early Emotion Shift": "Cheer up, in a month you will laugh about this!",
    "Template Response": "I'm here for you. Things will get better.",
    "Emotion Misread": "You sound really angry with your boss.",
}
defined = pd.DataFrame(
    {error.name: {"what goes wrong": error.meaning, "example (invented)": EXAMPLES[error.name]} for error in taxonomy.PSYCHOLOGICAL_ERRORS}
)
plain(defined.T, "The five psychological errors, in our words.")

# %% [markdown]
# Several of them could be said of one reply, and the judge had to choose one.
# A question about the job is a mismatch here and might be welcome three turns later: four of the five can't be seen without the conversation.
#
# ## What was released
#
# The files hold a reply, the seeker's last words and a label, and no ids.
# A model's reply is matched to the turn with the same words of the seeker, and a person's reply to the turn with the same reply.
# Where several turns share the words, such as the blank message that stands between two utterances of a supporter, the rows are dealt so that neighbours stay neighbours.
# Nothing of the text is committed here, because the files carry no licence; without them this chapter says so.

# %% tags=["hide-input"]
SHORT = {"qwen-sft": "Qwen", "llama-sft": "Llama"}
NAMES = {"failed": "people in FailedESConv", "qwen-sft": "Qwen2.5-7B after SFT", "llama-sft": "Llama-3.1-8B after SFT"}
if missing:
    shown = pd.DataFrame({"released outputs": {"not here": missing}})
else:
    shown = pd.DataFrame(
        {
            NAMES[source]: {"replies": f"{found['replies']:,}", "dialogues": found["dialogues"], "label is none of the six": found["unplaced"]}
            for source, found in released["errors"].items()
        }
    ).T
plain(shown, "Replies with labels by GPT, released by the authors of DecoupledESC.")

# %% [markdown]
# ## Figure 2: how often each error was seen
#
# *None* means that the judge found nothing wrong.
# Look at how little is left for it.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(missing, book.source("nothing counted"))
    figures.say(none_people="–", none_qwen="–", none_llama="–", lack_people="–", lack_qwen="–", lack_llama="–")
else:
    shares = {
        NAMES[source]: {label: Estimate(**estimate) for label, estimate in found["shares"].items()}
        for source, found in released["errors"].items()
    }
    count = sum(found["replies"] - found["unplaced"] for found in released["errors"].values())
    figure = figures.error_shares(shares, book.source(f"n = {count:,} labels by GPT, 95% intervals", counted=True))
    people, qwen, llama = shares.values()
    figures.say(
        none_people=written(people["None"]), none_qwen=written(qwen["None"]), none_llama=written(llama["None"]),
        lack_people=written(people["Lack of Empathy"]), lack_qwen=written(qwen["Lack of Empathy"]), lack_llama=written(llama["Lack of Empathy"]),
    )  # fmt: skip
figures.show("fig_errors", figure)

# %% [markdown]
# ```{glue:figure} fig_errors
# :name: fig-errors
# :alt: Bars of the share of replies with each of five psychological errors and with none, for people in FailedESConv and for two fine-tuned models.
#
# Figure 2 of {cite:t}`zhang2025decoupledesc`, from the labels that the authors released, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`; the labels are GPT's and the replies are the authors' models'; nothing here was computed by a model of ours.
# ```
#
# No error was seen in {glue:text}`none_people`% of the replies by people whose conversations had failed, in {glue:text}`none_qwen`% of Qwen's and {glue:text}`none_llama`% of Llama's.
# Lack of empathy is {glue:text}`lack_people`% among these people, {glue:text}`lack_qwen`% with Qwen and {glue:text}`lack_llama`% with Llama.
# So the models differ less from failed supporters than one would hope, which is what the paper's Observation 1 says.
# They show less lack of empathy and misread fewer feelings; mismatched strategies and template responses are not rarer with them.
#
# ## How far can the labels be trusted?
#
# Some replies occur twice: the same words, after the same words of the seeker, under the same strategy.
# Going by what the files hold, the judge was asked the same question twice.

# %% tags=["hide-input"]
repeats = {"pairs": 0, "openings": 0, "after_blank": 0, "equal": None, "kappa": None} if missing else released["repeats"]
equal, kappa = (written(Estimate(**repeats[key]), digits) if repeats[key] else "–" for key, digits in (("equal", 0), ("kappa", 2)))
figures.say(pairs=repeats["pairs"], openings=repeats["openings"], after_blank=repeats["after_blank"], equal=equal, kappa=kappa)
twice = {"pairs": repeats["pairs"], "equal labels (%)": equal, "Cohen's kappa": kappa}
plain(pd.DataFrame({"the same reply, labelled twice": twice}).T, "The judge against itself; 95% intervals over pairs.")

# %% [markdown]
# In {glue:text}`pairs` such pairs the labels are equal in {glue:text}`equal`%; {term}`Cohen's kappa` is {glue:text}`kappa`.
# Few pairs make wide intervals, and these are no fair sample: {glue:text}`openings` of them answer the first message of a dialogue, and {glue:text}`after_blank` the blank message between two utterances of a supporter, behind which the conversations differ.
# We don't know whether the judge was shown more than the files hold.
# If it was not, any number that is built on single labels, the filter of the preference pairs among them, is less certain than it looks.
#
# ## Table 3 again, from the authors' own replies
#
# Two rows of Table 3 belong to the released replies.
# Scoring them with our code tests that code, and our reading of how the table was made.

# %% tags=["hide-input"]
evaluations = {} if missing else {how: Evaluation.from_json(json.dumps(found)) for how, found in released["scores"].items()}
if missing:
    table = plain(pd.DataFrame({"Table 3": {"not attempted": missing}}), "Table 3's Vanilla-SFT rows from the released replies.")
    figures.say(agreeing="–", cells="–", largest="–", largest_row="–", largest_column="–")
else:
    table = replication.released_table_3(evaluations["all"], book.label)
    difference, row, column = replication.largest_difference(table)
    figures.say(
        agreeing=table.counts().get("within the interval", 0), cells=sum(cell.measured is not None for cell in table.cells()),
        largest=f"{difference:.2f}", largest_row=row.split("/")[0], largest_column=column,
    )  # fmt: skip
table

# %% [markdown]
# Of {glue:text}`cells` cells, {glue:text}`agreeing` lie within the interval.
# The largest difference is {glue:text}`largest` ({glue:text}`largest_column`, {glue:text}`largest_row`).
# The paper fixed no seed and drew one reply a turn, so these need not be the very replies that it scored.
#
# Some replies were matched by the seeker's words alone, and the others by their order too.
# The others are of two kinds: after a blank message a reply is a supporter's second in a row, and the rest are openings and short exchanges, in which everybody says much the same.

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L", "Q_W", "Q", "B")
if missing:
    by_match = pd.DataFrame({"scores": {"not attempted": missing}})
else:
    by_match = pd.DataFrame(
        {
            f"{SHORT[source]}: {how}": {
                "turns": f"{evaluation.details[source].turns:,}",
                **{key: written(evaluation.systems[source]["paper"][key], 2 if key == "B" else 1) for key in KEYS},
            }
            for source in SHORT
            for how, evaluation in evaluations.items()
        }
    ).T
plain(by_match, f"The released replies by how they were matched, variant paper; 95% intervals; profile {book.label}.")

# %% [markdown]
# Kinds of turns differ so much that no row says whether the matching by order is right.
# A comparison with chance does: the same replies, dealt at random among the turns that follow the same words.

# %% tags=["hide-input"]
if missing:
    against_chance = pd.DataFrame({"difference": {"not attempted": missing}})
    figures.say(by_order="–", order_f1_qwen="–", order_f1_llama="–")
else:
    dealt = Evaluation.from_json(json.dumps(released["order_against_chance"]))
    gained = {source: dealt.contrasts[f"{source} - {source} at random"]["paper"] for source in SHORT}
    against_chance = pd.DataFrame(
        {SHORT[source]: {key: written(difference[key], 2 if key == "B" else 1) for key in KEYS[1:]} for source, difference in gained.items()}
    ).T
    figures.say(
        by_order=f"{dealt.details['qwen-sft'].turns:,}",
        order_f1_qwen=written(gained["qwen-sft"]["F1"]), order_f1_llama=written(gained["llama-sft"]["F1"]),
    )  # fmt: skip
plain(against_chance, "Dealt by order minus dealt at random, on the turns that were matched by order; variant paper; paired 95% intervals.")

# %% [markdown]
# On these {glue:text}`by_order` turns, order gains {glue:text}`order_f1_qwen` points of F1 with Qwen and {glue:text}`order_f1_llama` with Llama over one random dealing.
# Where an interval contains zero, this test can't tell order from chance; and since the turns are less than a quarter of all, the scores on all turns depend little on it.
#
# The textbook variants of the same metrics are in the table below; which variant is meant matters more than which model.

# %% tags=["hide-input"]
if missing:
    variants = pd.DataFrame({"scores": {"not attempted": missing}})
else:
    whole = evaluations["all"]
    variants = pd.DataFrame(
        {
            f"{SHORT[source]}: {variant}": {key: written(whole.systems[source][variant][key], 2 if key == "B" else 1) for key in KEYS}
            for source in SHORT
            for variant in ("paper", "standard")
        }
    ).T
plain(variants, f"The released replies on all turns, two ways to compute each metric; 95% intervals; profile {book.label}.")

# %% [markdown]
# ## Figure 3 for the paper's models
#
# Which strategies the two models prefer; [chapter 08](08_evaluate_systems.ipynb) draws the same for ours.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(missing, book.source("nothing counted"))
    figures.say(off_qwen="–", off_llama="–")
else:
    gold = whole.gold_distribution
    share = {NAMES[source]: whole.details[source].distribution for source in SHORT}
    off = [50 * np.abs(np.array(own) - np.array(gold)).sum() for own in share.values()]
    figures.say(off_qwen=f"{off[0]:.0f}", off_llama=f"{off[1]:.0f}")
    source = book.source(f"n = {whole.details['qwen-sft'].turns:,} turns", counted=True)
    figure = figures.strategy_distributions(share, gold, source)
figures.show("fig_released_strategies", figure)

# %% [markdown]
# ```{glue:figure} fig_released_strategies
# :name: fig-released-strategies
# :alt: Two bar charts of the share of eight strategies, for the authors' fine-tuned Qwen and Llama models, with diamonds for the gold shares.
#
# Strategy distribution of the authors' two SFT models against the gold annotation, after Figure 3 of {cite:t}`zhang2025decoupledesc`.
# Profile {glue:text}`profile_name`; shares without intervals.
# ```
#
# {glue:text}`off_qwen`% of Qwen's turns and {glue:text}`off_llama`% of Llama's would have to change strategy to match people's shares.
# Both ask questions and give suggestions more often than people do.
#
# ## What is not here yet
#
# The same picture for our own models needs an error judge: an LLM, or a classifier trained on these labels whose validity is stated.
# Neither is part of the book yet.
