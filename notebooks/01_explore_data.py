# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 Data: what supporters did
#
# Everything in this book starts from ESConv {cite}`liu2021esconv`: written conversations between a {term}`seeker`, who has a problem, and a {term}`supporter`, who was trained for the task and labelled each of their own utterances with one of eight {term}`strategies <strategy>`.
#
# This chapter reads it, recovers the split that DecoupledESC {cite}`zhang2025decoupledesc` trained on, and compares our counts with the paper's.
# Counting needs no model, so the numbers here must agree *exactly*, and a difference has to be explained.

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.present import figures, replication
from decoupled_esc.present.tables import results_table
from decoupled_esc.experiments.run import open_book

book = open_book(globals())
data = book["data"]

# %% [markdown]
# ## One conversation
#
# Here are the first messages of one training dialogue, in the *chat form* that models are trained on.
# Look at the tags: the supporter's strategy stands in square brackets before each reply, and it is part of what a coupled model has to write.

# %% tags=["hide-input"]
for message in data.example.messages:
    tag = f"[{message['strategy']}] " if message["strategy"] else ""
    print(f"{message['role']:>9}: {tag}{message['text']}")
figures.glue_numbers(example=data.example.id)

# %% [markdown]
# (Dialogue {glue:text}`example`, ESConv {cite}`liu2021esconv`, CC BY-NC 4.0.)
#
# The chat form alternates strictly, although ESConv's conversations do not.
# Consecutive seeker utterances are joined; where a supporter writes twice in a row, a blank seeker message is put between; where the supporter opens, a `Hi` is put before; whatever the seeker says at the very end is dropped.
# A test of this repository rebuilds the published test dialogues by these rules, and asks that every one be equal once white space is folded.

# %% [markdown]
# ## The split
#
# The paper divides ESConv 8:1:1 and does not say how.
# The division can be recovered all the same: the authors published their validation and test dialogues, and matching them by what the supporters said identifies every one of them.
# This repository commits the result as hashes, which name the dialogues without quoting them.

# %% tags=["hide-input"]
split = pd.DataFrame({"dialogues": data.dialogues, "supporter turns": data.turns})
figures.glue_numbers(
    corpus=data.corpus,
    train_turns=f"{data.turns['train']:,}",
    test_turns=f"{data.turns['test']:,}",
    blank_turns=f"{data.blank_turns['test']:,}",
    blank_share=f"{100 * data.blank_turns['test'] / data.turns['test']:.0f}",
)
results_table(split, f"The three parts of the corpus; profile {book.label}.", "{:,}")

# %% [markdown]
# Models are trained on {glue:text}`train_turns` supporter turns and tested on {glue:text}`test_turns`.
# Keep one number in mind for later chapters: in {glue:text}`blank_turns` of the test turns ({glue:text}`blank_share`%) the last seeker message is blank, because the supporter had just spoken.
# A judge that is shown only that message is shown nothing.

# %% [markdown]
# ## DecoupledESC Table 1: how much data
#
# The paper's Table 1 describes the training split.
# *Assistant* is the supporter and *User* the seeker; the assistant's characters include the strategy tag.

# %% tags=["hide-input"]
replication.table_1(data, book.label)

# %% tags=["hide-input"]
figures.glue_numbers(
    messages=f"{data.size['total']['utterances']:,}",
    train_dialogues=f"{data.dialogues['train']:,}",
    mean_turns=f"{data.size['total']['turns_per_dialogue']:.2f}",
    blank_train=f"{data.blank_turns['train'] / data.turns['train']:.2f}",
)

# %% [markdown]
# Where a count differs, the split is wrong; where a mean differs in its last digits, it was taken differently.
# The paper's total of turns is twice a rounded half; {glue:text}`messages` messages over {glue:text}`train_dialogues` dialogues make {glue:text}`mean_turns`.
# Characters depend on two habits that the paper does not mention: whether runs of blanks are folded, as our reader does, and whether a blank seeker message counts as one character or as none, which moves the seeker's mean by {glue:text}`blank_train`.
# The two pull in opposite directions, and together they probably explain what is left.
# *Differs* is the honest verdict all the same.

# %% [markdown]
# ## DecoupledESC Table 6: which strategies
#
# If the recovered split had a wrong dialogue in it, these counts would hardly all agree.

# %% tags=["hide-input"]
table_6 = replication.table_6(data, book.label)
table_6

# %% tags=["hide-input"]
counts = data.strategy_counts
figures.glue_numbers(
    exact=table_6.counts().get("exact", 0), cells=sum(table_6.counts().values()),
    times=f"{max(counts.values()) / min(counts.values()):.1f}",
)

# %% [markdown]
# {glue:text}`exact` of {glue:text}`cells` cells are exact.
# The classes are far from equal: the commonest strategy is used {glue:text}`times` times as often as the rarest.
# Any metric that averages over turns is dominated by the common ones; a macro average, which both papers report as well, is not.

# %% [markdown]
# ## DecoupledESC Figure 8: when they do it
#
# Helping has an order: explore, then comfort, then act {cite}`hill1999helping`.
# Each supporter turn is placed on a scale from 0 (opening) to 5 (end) by its position in the dialogue.
# Look at how *Question* gives way to *Providing Suggestions*, and at where *Others* (greetings and thanks) sits.

# %% [markdown]
# Turn $t$ of $n$, counted from 0, stands at $t / (n - 1)$, which is rounded to the nearest fifth, halves upwards.
# Here are the eleven turns of a dialogue of that length.

# %%
length = 11
position = np.arange(length) / (length - 1)
stages = np.floor(5 * position + 0.5).astype(int)
assert stages.tolist() == [taxonomy.stage(turn, length) for turn in range(length)]
print("stages:", *stages)

# %% [markdown]
# The first stage and the last are half as wide as the others; and in a dialogue of four turns two stages stay empty.

# %% tags=["hide-input", "remove-output"]
by_stage = np.array(data.strategy_by_stage)
figures.show("fig_stages", figures.strategy_by_stage(by_stage, book.source(f"a count of {by_stage.sum():,} turns", counted=True)))

# %% tags=["hide-input"]
share = 100 * by_stage / by_stage.sum(axis=1, keepdims=True)
question, suggestion = (taxonomy.STRATEGIES.index(name) for name in ("Question", "Providing Suggestions"))
figures.glue_numbers(
    n_stages=f"{by_stage.sum():,}",
    profile_name=book.label,
    question_first=f"{share[0, question]:.0f}", question_last=f"{share[-1, question]:.0f}",
    suggestion_first=f"{share[0, suggestion]:.0f}", suggestion_peak=f"{share[:, suggestion].max():.0f}",
    suggestion_stage=int(share[:, suggestion].argmax()),
)

# %% [markdown]
# ```{glue:figure} fig_stages
# :name: fig-stages
# :alt: Stacked bars of the share of eight strategies at six stages of a dialogue. Questions dominate the opening stages, suggestions and affirmation the later ones, and other utterances such as thanks the last.
#
# Strategies by stage of the dialogue, after Figure 8 of {cite:t}`zhang2025decoupledesc`.
# Profile {glue:text}`profile_name`; n = {glue:text}`n_stages` supporter turns of the training split; a full count, so without interval.
# ```
#
# *Question* falls from {glue:text}`question_first`% of turns in the opening to {glue:text}`question_last`% at the end.
# *Providing Suggestions* starts at {glue:text}`suggestion_first`% and is strongest at stage {glue:text}`suggestion_stage` with {glue:text}`suggestion_peak`%.
# So the position in the dialogue alone tells a planner a good deal, and a planner that ignores it will look biased.
# The paper prints this figure without numbers; there is no cell to compare.

# %% [markdown]
# ## What seekers answered afterwards
#
# After each conversation both sides answered a short survey.
# FailedESConv holds the conversations that did not pass the quality check, and it is where the paper first finds its {term}`psychological errors <psychological error>`.

# %% tags=["hide-input"]
questions = {
    "initial_intensity": "intensity of the feeling before (1–5)",
    "final_intensity": "intensity after (1–5)",
    "empathy": "supporter understood me (1–5)",
    "relevance": "replies were to the point (1–5)",
}
survey = {
    name: {questions[key]: answer["mean"] for key, answer in answers.items() if key in questions}
    for name, answers in data.survey.items()
}
good, failed = "esconv", "failed_esconv"
fall = {name: answers["fall"]["mean"] for name, answers in data.survey.items()}
figures.glue_numbers(
    fall_good=f"{fall[good]:.1f}", fall_failed=f"{fall[failed]:.1f}", failed_dialogues=data.failed.dialogues,
    answered=f"{data.survey[failed]['empathy']['answers']}",
)
results_table(pd.DataFrame(survey), f"Mean answers of seekers; those who did not answer are left out; profile {book.label}.", "{:.2f}")

# %% [markdown]
# Among seekers who answered both times, the feeling eased by {glue:text}`fall_good` points in ESConv and by {glue:text}`fall_failed` in FailedESConv.
# The comparison is generous to the failed conversations: of {glue:text}`failed_dialogues` seekers only {glue:text}`answered` answered, and those who left early are not among them.

# %% [markdown]
# ## What the data sets have wrong
#
# A reader of data should say what it passed over.
# Nothing was dropped here; these are the places where a published file says something off its own scale or in an older spelling.

# %% tags=["hide-input"]
flaws = [(name, what, count) for name, found in data.flaws.items() for what, count in found.items()]
results_table(pd.DataFrame(flaws, columns=["data set", "what", "times"]).set_index("data set"), f"Oddities of the published files; profile {book.label}.")

# %% [markdown]
# ## Exercises
#
# Each chapter up to 15 ends on three exercises: one to *read*, whose answer is on the page, one to *compute* in a few lines, and one to *change* something and run it again.
# Code runs in a new cell at the end of the chapter's notebook, or in any Python of this repository; the cells of a chapter go on from one another.
#
# ````{exercise} read
# :label: ex-01-read
#
# In how many test turns is the seeker's last message blank, and which rule of the chat form makes it so?
# What does that mean for a judge that is shown this message and the reply?
# ````
#
# ````{solution} ex-01-read
# :class: dropdown
#
# In {glue:text}`blank_turns` turns ({glue:text}`blank_share`%): where the supporter writes twice in a row, a blank seeker message is put between.
# Such a judge has nothing to hold the reply against, so that its score is one of the reply alone.
# ````
#
# ````{exercise} compute
# :label: ex-01-compute
#
# How well would you do on the training split by always guessing the commonest strategy?
# Give accuracy and macro F1, the mean of eight F1 scores, both in per cent.
#
# ```python
# import numpy as np
# from decoupled_esc.evaluate.strategy import macro_f1
#
# counts = np.array([3060, 857, 1146, 1387, 2288, 2373, 989, 2663])  # DecoupledESC Table 6
# ```
# ````
#
# ````{solution} ex-01-compute
# :class: dropdown
#
# ```python
# p = counts.max() / counts.sum()  # the guess's precision; its recall is 1
# f1 = 2 * p / (1 + p)
# print(f"accuracy {100 * p:.1f}, macro F1 {100 * f1 / 8:.1f}")  # accuracy 20.7, macro F1 4.3
#
# w = np.zeros((8, 8))  # rows: predicted
# w[counts.argmax()] = counts
# assert np.isclose(macro_f1(w, np.zeros(8), "drop"), 100 * f1 / 8)
# ```
#
# Seven strategies are never predicted and contribute 0.
# Chapter 08 shows what such a planner does to the {term}`preference bias B`.
# ````
#
# ````{exercise} change
# :label: ex-01-change
#
# Run this chapter under another profile: `papermill notebooks/01_explore_data.ipynb out.ipynb -p profile smoke`.
# Say first which numbers you expect to differ: `smoke` trains on 80 dialogues.
# ````
#
# ````{solution} ex-01-change
# :class: dropdown
#
# None but the profile's name: this chapter counts the whole corpus, and a profile says only how much of it models learn from.
# That is why its numbers can be asked to agree exactly.
# ````
