# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 RQ1: does DPO help the coupled model?
#
# The paper's claim in one sentence: Vanilla-DPO replies better than Vanilla-SFT by an LLM judge's scores, but does not reliably reduce preference bias or choose strategies better {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models; nothing here is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, questions
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
# *Ours* is the mean of the differences under them, with a 95% interval for other dialogues and other training runs: the variance between dialogues and the variance between trainings are added, each at its own degrees of freedom {cite}`graybill1980confidence`, so that three trainings that differ much have a wide one.
#
# {glue:text}`rule`
#
# Beside the paper's differences stands how large a difference *chance* makes on its test set: what is smaller is no finding of the paper's, and nothing that ours could agree with.
#
# ## Sampled, as in DecoupledESC Table 3
#
# The words of the replies, for which the claim is "better", and the strategies, for which it is "no better": the rows ask whether DPO improves each.

# %% tags=["hide-input"]
contrast, BETTER, ROWS = questions.FIRST["RQ1"]
tables = questions.question(
    asked, {"sampled": (contrast, ROWS), "greedy": ("vanilla-dpo-argmax - vanilla-sft-argmax", ROWS)}, BETTER
)
sampled, best = tables["sampled"], tables["greedy"]
figures.glue_numbers(rule=questions.rule(asked))
results_table(sampled, f"Vanilla-DPO minus Vanilla-SFT, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Greedy decoding
#
# The same weights under greedy decoding; the paper has no such numbers.

# %% tags=["hide-input"]
results_table(best, f"Vanilla-DPO minus Vanilla-SFT, greedy decoding and argmax (the paper's columns are sampled); profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
figures.glue_numbers(
    drawn=questions.answers(sampled), best=questions.answers(best),
    b_answer=sampled.loc["Preference bias", "answer"], b=sampled.loc["Preference bias", "ours"],
)  # fmt: skip

# %% [markdown]
# ## Verdict
#
# "DPO improves this" is, sampled: {glue:text}`drawn`; greedy: {glue:text}`best`.
# For {term}`preference bias B` as the paper measures it, the difference is {glue:text}`b`; that DPO lowers it: **{glue:text}`b_answer`**.
#
# The paper's claim has two parts.
# That strategies do not reliably get better is what its own two backbones show, and a row *contradicted*, or with a *trend against* an improvement, agrees with it.
# That replies get better rests on a judge's scores, which are not in this table ([chapter 08](08_evaluate_systems.ipynb) says whether this profile has a judge); BLEU, F1 and ROUGE reward likeness to what one person said, and BLEU can rise because replies grow longer.
#
# Much hangs on the learning rate: [chapter 06](06_train_decoupled_dpo.ipynb) shows the search on validation dialogues, without intervals, in which preference bias changes much with the rate.
# The claim that strategies don't get better is easily "confirmed" by a rate that is too large; what stands here was made with the best of those tried.
#
# What would change our mind: an LLM judge's scores under three seeds; pairs mined with a judge that agrees with GPT or with people; the same under the large backbones.
