# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 RQ4: does Decoupled-DPO make fewer psychological errors?
#
# The paper's claim in one sentence: after Decoupled-DPO more replies have no error than after SFT, 27% against about 20% by GPT's judgement (Figure 7) {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models; nothing here is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, judge_tables, questions
from decoupled_esc.present.tables import format_estimate, format_scores, results_table

book = open_book(globals())
offline = book["errors"]
classifier = book["error-classifier"]
judged = book["judged"]
seeds = str(book.profile.seed) if isinstance(offline, Missing) else ", ".join(str(seed) for seed in offline.seeds)
figures.glue_numbers(profile_name=book.label, seeds=seeds)

# %% [markdown]
# ## DecoupledESC Figure 7 for our models
#
# Shares are means over the seed(s) {glue:text}`seeds`, with 95% intervals for other dialogues and other training runs ([chapter 09](09_ask_rq1.ipynb) says how).
# The judge here is the offline error classifier, unless the profile has an LLM judge, whose shares follow below.

# %% tags=["hide-input", "remove-output"]
OURS = {"decoupled-sft": "decoupled, SFT", "decoupled-dpo": "decoupled, DPO", "vanilla-dpo": "vanilla, DPO"}
if isinstance(offline, Missing):
    figure = figures.nothing_here(offline.reason, book.source("nothing counted"))
else:
    shares = {title: offline.systems[name] for name, title in OURS.items()}
    figure = figures.shares(shares, book.source(f"95% intervals, by the error classifier ({offline.learned_from})"))
figures.show("fig_errors_after_dpo", figure)

# %% [markdown]
# ```{glue:figure} fig_errors_after_dpo
# :name: fig-errors-after-dpo
# :alt: Bars of the share of replies with each psychological error and with none, for the decoupled system after SFT and after DPO and the coupled model after DPO, by the offline error classifier.
#
# After Figure 7 of {cite:t}`zhang2025decoupledesc`: mean probability of each error by the offline error classifier, 95% intervals.
# Profile {glue:text}`profile_name`.
# ```

# %% tags=["hide-input"]
if isinstance(offline, Missing):
    table = offline
    figures.glue_numbers(none="–", verdict="not judged", judges_error="unknown")
else:
    contrasts = {"decoupled: DPO minus SFT": "decoupled-dpo - decoupled-sft", "vanilla: DPO minus SFT": "vanilla-dpo - vanilla-sft", "DPO: decoupled minus vanilla": "decoupled-dpo - vanilla-dpo"}
    table = pd.DataFrame({title: format_scores(offline.contrasts[name], LABELS) for title, name in contrasts.items()}).T
    gain = offline.contrasts["decoupled-dpo - decoupled-sft"]["None"]
    single = [of["decoupled-dpo - decoupled-sft"]["None"] for of in offline.by_seed.values()]
    if isinstance(classifier, Missing):
        error, verdict = "not measured", "not decided"
    else:
        gap = max(abs(share.known - share.labelled) for found in classifier.differences.values() for share in found.values())
        error = f"{gap:.0f} points between writers that it has learned from"
        sure = gain.low is not None and (gain.low > gap or gain.high < -gap)
        verdict = questions.answer(1, gain, single) if sure else "not decided"
    figures.glue_numbers(none=f"{format_estimate(gain)} ({', '.join(f'{value:+.1f}' for value in single)})", verdict=verdict, judges_error=error)
results_table(table, f"Differences in the share of each error, in points, by the offline error classifier; seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# This judge mined the pairs, too, where the profile has no other: the generator was trained against what this very classifier calls an error.
# That its shares fall afterwards shows that DPO does what it is told; whether the replies are better is another question, which a judge can't answer about itself.
#
# ## By an LLM judge

# %% tags=["hide-input"]
results_table(judge_tables.judge_errors(judged), f"Share of each psychological error by LLM judges, in per cent, profile {book.label}; 95% intervals.")

# %% [markdown]
# ## The 27% and the +7 of the text
#
# The paper's text says that 27% of Decoupled-DPO's replies have no error, and that this is 7 points more than its two models after SFT have on average.
# These are the models of its Figure 2, which are coupled, so that its 7 points hold decoupling as well as DPO.
# Our share and our difference from Vanilla-SFT stand beside them, by another judge than the paper's, so that neither is compared; the verdict below asks what DPO alone does.

# %% tags=["hide-input"]
from decoupled_esc.present import replication

replication.in_text(offline, judged, book.label)

# %% [markdown]
# ## Verdict
#
# After Decoupled-DPO the share of *None* differs from that after SFT by {glue:text}`none` points, in brackets under each seed.
# The classifier's differences between writers have been off by up to {glue:text}`judges_error` ([chapter 03](03_observe_errors.ipynb)), so a difference counts only beyond that: the claim is **{glue:text}`verdict`**.
#
# What would change our mind: labels by a judge that did not mine the pairs, best of all by human raters.
