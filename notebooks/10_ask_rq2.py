# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 RQ2: does decoupling help?
#
# The paper's claim in one sentence: decoupled models beat their coupled counterparts on nearly every metric, after SFT and after DPO, with less preference bias and better replies {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models; nothing here is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, judge_tables, questions
from decoupled_esc.present.tables import results_table

book = open_book(globals())
asked = book["questions"]
seeds = ", ".join(str(seed) for seed in asked.seeds)
n_turns = f"{asked.together.details['vanilla-sft'].turns:,}"
figures.glue_numbers(profile_name=book.label, seeds=seeds, n_seeds=len(asked.seeds))
if book.stored("replies-vanilla-dpo").provenance.get("remade"):
    print(
        f"The models of seed {asked.seeds[0]} were trained again for this page on another machine than those of chapters 02 to 08: "
        "same code, data and seed, but processors round differently, and its numbers here and there differ (chapter 14 shows by how much)."
    )

# %% [markdown]
# ## How it is decided
#
# All systems answer the same test turns, trained and sampled under {glue:text}`n_seeds` seed(s): {glue:text}`seeds`.
# *Ours* is the mean of the differences under them, with a 95% interval for other dialogues and other training runs ([chapter 09](09_ask_rq1.ipynb) says how).
#
# {glue:text}`rule`
#
# Beside the paper's differences stands how large a difference *chance* makes on its test set: what is smaller is no finding of the paper's, and nothing that ours could agree with.
#
# ## After DPO, sampled as in DecoupledESC Table 3

# %% tags=["hide-input"]
contrast, BETTER, ROWS = questions.FIRST["RQ2"]
tables = questions.question(
    asked,
    {
        "DPO": (contrast, ROWS),
        "SFT": ("decoupled-sft - vanilla-sft", ("decoupled/sft", "vanilla/sft")),
        "greedy": ("decoupled-dpo-argmax - vanilla-dpo-argmax", ("decoupled/dpo", "vanilla/dpo")),
    },
    BETTER,
)
after_dpo, after_sft, best = tables["DPO"], tables["SFT"], tables["greedy"]
figures.glue_numbers(rule=questions.rule(asked))
results_table(after_dpo, f"Decoupled-DPO minus Vanilla-DPO, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## After SFT, sampled

# %% tags=["hide-input"]
results_table(after_sft, f"Decoupled-SFT minus Vanilla-SFT, sampled at T = 0.7; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Greedy decoding

# %% tags=["hide-input"]
results_table(best, f"Decoupled-DPO minus Vanilla-DPO, greedy decoding and argmax (the paper's columns are sampled); profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Human evaluation (DecoupledESC Figure 6)
#
# In the paper, 20 students of psychology compared 20 replies of each system.
# We ran no human evaluation.
# `decoupled-esc human-eval export runs/study --profile laptop --systems decoupled-dpo vanilla-dpo` writes the forms for such a study: blinded, balanced, with attention items, to be filled in offline; `human-eval report runs/study` reads the answers and gives win, tie and lose with intervals, and how far raters agree.
# Where the profile has an LLM judge, it compares the same two systems in both orders; its choices are a judge's, and are never shown as raters'.

# %% tags=["hide-input"]
results_table(judge_tables.judge_pairs(book["judged"]), f"Pairs of systems by LLM judges, each in both orders, in per cent; profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
figures.glue_numbers(
    dpo=questions.answers(after_dpo), sft=questions.answers(after_sft), argmax=questions.answers(best),
    b=after_dpo.loc["Preference bias", "ours"], b_answer=after_dpo.loc["Preference bias", "answer"],
    b_best=best.loc["Preference bias", "ours"], b_best_answer=best.loc["Preference bias", "answer"],
)  # fmt: skip

# %% [markdown]
# ## Verdict
#
# "Decoupling improves this" is, after DPO: {glue:text}`dpo`; after SFT: {glue:text}`sft`; after DPO with greedy decoding: {glue:text}`argmax`.
# {term}`Preference bias B` differs by {glue:text}`b` sampled (**{glue:text}`b_answer`**) and by {glue:text}`b_best` greedy (**{glue:text}`b_best_answer`**).
#
# Each side has a learning rate of its own, searched on validation dialogues ([chapter 06](06_train_decoupled_dpo.ipynb)); at the decoupled models' rate the coupled one would collapse, and the comparison decided by that alone.
# Two things are unequal, in the paper as well: the decoupled system has twice the weights, and its planner may be sampled more evenly because it prints a name on its own.
# [Chapter 14](14_measure_preference_bias.ipynb) takes the second apart.
#
# What would change our mind: raters, or a judge that agrees with them; a coupled model of twice the size; the large backbones.
