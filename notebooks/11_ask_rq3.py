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
from collections import Counter

import pandas as pd

from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, replication
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
asked = book["questions"]
seeds = ", ".join(str(seed) for seed in asked["seeds"])
n_turns = f"{next(iter(asked['together']['details'].values()))['turns']:,}"
figures.glue_numbers(profile_name=book.label, seeds=seeds, n_seeds=len(asked["seeds"]))
if book.stored("counts").provenance.get("remade") or book.stored("replies-vanilla-dpo").provenance.get("remade"):
    print(
        f"The models of seed {asked['seeds'][0]} were trained again for this page on another machine than those of chapters 02 to 08: "
        "same code, data and seed, but processors round differently, and its numbers here and there differ (chapter 14 shows by how much)."
    )

# %% [markdown]
# ## How it is decided
#
# All systems answer the same test turns, trained and drawn under {glue:text}`n_seeds` seed(s): {glue:text}`seeds`.
# *Ours* is the mean of the differences under them, with a 95% interval from draws of whole dialogues and, independently, of seeds (the pigeonhole bootstrap {cite}`owen2007pigeonhole`).
# A row is **supported** or **contradicted** if that interval leaves out zero and the difference has the same sign under every one of at least three seeds; otherwise it is **not decided**.
# With fewer seeds a row can only be *for it* or *against it*: the interval then knows how dialogues differ, and little of how trainings do.
# Many rows are looked at, and one in twenty would leave out zero by chance.
#
# ## Decoupled-DPO against Decoupled-SFT, drawn

# %% tags=["hide-input"]
BETTER = {"B-1": 1, "F1": 1, "R-L": 1, "Q_W": 1, "Q": 1, "B": -1}
drawn = replication.question(asked, "decoupled-dpo - decoupled-sft", ("decoupled/dpo", "decoupled/sft"), BETTER)
results_table(drawn, f"Decoupled-DPO minus Decoupled-SFT, drawn; {n_turns} replies a system; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## By argmax

# %% tags=["hide-input"]
best = replication.question(asked, "decoupled-dpo-argmax - decoupled-sft-argmax", ("decoupled/dpo", "decoupled/sft"), BETTER)
results_table(best, f"Decoupled-DPO minus Decoupled-SFT, by argmax (the paper's columns are drawn); profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Is the gain larger than in the coupled model?
#
# The paper says that DPO brings more once the two are decoupled.
# Here are both gains side by side, for the metrics of the strategies.

# %% tags=["hide-input"]
together = asked["together"]["contrasts"]
gains = pd.DataFrame(
    {
        title: {key: format_estimate(together[contrast]["paper"][key], 2 if key == "B" else 1) for key in ("Q_W", "Q", "B")}
        for title, contrast in (
            ("coupled, drawn", "vanilla-dpo - vanilla-sft"), ("decoupled, drawn", "decoupled-dpo - decoupled-sft"),
            ("coupled, argmax", "vanilla-dpo-argmax - vanilla-sft-argmax"), ("decoupled, argmax", "decoupled-dpo-argmax - decoupled-sft-argmax"),
        )
    }
).T  # fmt: skip
results_table(gains, f"What DPO adds to SFT, profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Table 4: the generator under the gold strategy

# %% tags=["hide-input"]
judged = book["judged"]
table_4 = replication.table_4(judged, book.label)
table_4

# %% [markdown]
# The paper has judge's scores alone here.
# What can be computed without a judge, over the seeds:

# %% tags=["hide-input"]
gold = pd.DataFrame(
    {
        **{name: {key: format_estimate(asked["together"]["systems"][system]["paper"][key]) for key in ("D-1", "B-1", "F1", "R-L")} for name, system in (("SFT", "gold-sft"), ("DPO", "gold-dpo"))},
        "DPO minus SFT": {key: format_estimate(together["gold-dpo - gold-sft"]["paper"][key]) for key in ("D-1", "B-1", "F1", "R-L")},
    }
).T
results_table(gold, f"The generator under the gold strategy, profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
said = {name: ", ".join(f"{count} {word}" for word, count in Counter(table["answer"]).items()) for name, table in (("drawn", drawn), ("argmax", best))}
figures.glue_numbers(
    drawn=said["drawn"], best=said["argmax"], b=drawn.loc["Preference bias", "ours"], b_answer=drawn.loc["Preference bias", "answer"],
    b_best=best.loc["Preference bias", "ours"], b_best_answer=best.loc["Preference bias", "answer"],
)  # fmt: skip

# %% [markdown]
# ## Verdict
#
# "DPO improves this" is, drawn: {glue:text}`drawn`; by argmax: {glue:text}`best`.
# {term}`Preference bias B` changes by {glue:text}`b` drawn (**{glue:text}`b_answer`**) and by {glue:text}`b_best` by argmax (**{glue:text}`b_best_answer`**).
#
# Drawn and argmax can point in different directions because DPO also changes how sure a planner is, and drawing turns sureness into bias.
#
# What would change our mind: judge's scores for Table 4; the same pairs, but the rates of Table 7 on the backbones of the paper.
