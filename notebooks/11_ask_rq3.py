# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 RQ3: does DPO help once the two are decoupled?
#
# The paper's claim in one sentence: in the decoupled setting DPO improves on SFT in preference bias, strategy choice and judged quality, and the generator improves even when the gold strategy is given {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models; nothing here is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, questions, replication
from decoupled_esc.present.tables import format_scores, results_table

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
# ## Decoupled-DPO against Decoupled-SFT, sampled as in DecoupledESC Table 3

# %% tags=["hide-input"]
contrast, BETTER, ROWS = questions.FIRST["RQ3"]
tables = questions.question(
    asked, {"sampled": (contrast, ROWS), "greedy": ("decoupled-dpo-argmax - decoupled-sft-argmax", ROWS)}, BETTER
)
sampled, best = tables["sampled"], tables["greedy"]
figures.glue_numbers(rule=questions.rule(asked))
results_table(sampled, f"Decoupled-DPO minus Decoupled-SFT, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Greedy decoding

# %% tags=["hide-input"]
results_table(best, f"Decoupled-DPO minus Decoupled-SFT, greedy decoding and argmax (the paper's columns are sampled); profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Is the gain larger than in the coupled model?
#
# The paper says that DPO brings more once the two are decoupled.
# Here are both gains side by side, for the metrics of the strategies.

# %% tags=["hide-input"]
together = asked.together.contrasts
gains = pd.DataFrame(
    {
        title: format_scores(together[contrast]["paper"], ("Q_W", "Q", "B"))
        for title, contrast in (
            ("coupled, sampled", "vanilla-dpo - vanilla-sft"), ("decoupled, sampled", "decoupled-dpo - decoupled-sft"),
            ("coupled, greedy", "vanilla-dpo-argmax - vanilla-sft-argmax"), ("decoupled, greedy", "decoupled-dpo-argmax - decoupled-sft-argmax"),
        )
    }
).T  # fmt: skip
results_table(gains, f"What DPO adds to SFT, profile {book.label}; 95% intervals.")

# %% [markdown]
# ## DecoupledESC Table 4: the generator under the gold strategy

# %% tags=["hide-input"]
judged = book["judged"]
table_4 = replication.table_4(judged, book.label)
table_4

# %% [markdown]
# The paper has a judge's scores alone here.
# What can be computed without a judge, over the seeds:

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L")
gold = pd.DataFrame(
    {
        "SFT": format_scores(asked.together.systems["gold-sft"]["paper"], KEYS),
        "DPO": format_scores(asked.together.systems["gold-dpo"]["paper"], KEYS),
        "DPO minus SFT": format_scores(together["gold-dpo - gold-sft"]["paper"], KEYS),
    }
).T
results_table(gold, f"The generator under the gold strategy, profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
figures.glue_numbers(
    drawn=questions.answers(sampled), best=questions.answers(best),
    b=sampled.loc["Preference bias", "ours"], b_answer=sampled.loc["Preference bias", "answer"],
    b_best=best.loc["Preference bias", "ours"], b_best_answer=best.loc["Preference bias", "answer"],
)  # fmt: skip

# %% [markdown]
# ## Verdict
#
# "DPO improves this" is, sampled: {glue:text}`drawn`; greedy: {glue:text}`best`.
# {term}`Preference bias B` changes by {glue:text}`b` sampled (**{glue:text}`b_answer`**) and by {glue:text}`b_best` greedy (**{glue:text}`b_best_answer`**).
#
# Sampled and greedy answers can point in different directions because DPO also changes how sure a planner is, and sampling turns sureness into bias.
#
# What would change our mind: judge's scores for Table 4; the same pairs, but the rates of Table 7 on the backbones of the paper.
