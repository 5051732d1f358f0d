# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 The other side: coupled DPO, and prompting
#
# To know what decoupling brings, it has to be compared with what it replaces.
# This chapter trains the {term}`vanilla` model on preference pairs, repeats the paper's controlled study of which pairs harm it (Observation 2), and runs the prompting baselines {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# Replies on this page were written by experimental models; they are not counselling, and some are nonsense.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, replication
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
trained = {
    "all": book["dpo-vanilla"],
    "PsNr": book["dpo-vanilla-psnr"],
    "NsPr": book["dpo-vanilla-nspr"],
    "NsNr": book["dpo-vanilla-nsnr"],
}
controlled = book["metrics-controlled"]
measured = book["metrics"]
judged = book["judged"]
figures.glue_numbers(profile_name=book.label)

# %% [markdown]
# ## Vanilla DPO
#
# One model, one loss, and a rejected turn that can be wrong in two ways at once.
# The pairs are those of [chapter 04](04_mine_preferences.ipynb): all of them for Vanilla-DPO, and for the controlled study one {term}`quadrant` at a time, cut to the size of the smallest so that only the kind differs.

# %% tags=["hide-input"]
how = pd.DataFrame(
    {
        name: {
            "pairs": f"{r.payload['pairs']:,}",
            "KL from the reference, nats a token": f"{r.payload['divergence']:.3f}",
            "gold turn, nats a token": f"{r.payload['held_out_loss_before']:.3f} → {r.payload['held_out_loss']:.3f}",
            "minutes (other jobs beside it)": f"{r.provenance['wall_seconds'] / 60:.1f}",
            "peak memory, GiB": f"{r.provenance['peak_memory_mib'] / 1024:.1f}",
        }
        for name, r in trained.items()
    }
).T
results_table(how, f"Preference optimisation of the coupled model by kind of rejected turn, profile {book.label}.")

# %% tags=["hide-input", "remove-output"]
logs = {name: [step for step in r.payload["steps"] if "reward_chosen" in step] for name, r in trained.items() if name != "NsPr"}
betas = {name: r.payload["loss"]["beta"] for name, r in trained.items()}
figures.show("fig_vanilla_curves", figures.preference_curves(logs, betas, book.source("mean over the pairs of the steps between two logs")))

# %% [markdown]
# ```{glue:figure} fig_vanilla_curves
# :name: fig-vanilla-curves
# :alt: Rewards, margin, accuracy and divergence from the reference over training steps for the coupled model on all pairs, on PsNr pairs and on NsNr pairs.
#
# Preference optimisation of the coupled model on three sets of pairs.  Profile {glue:text}`profile_name`; training pairs, without intervals.
# ```
#
# ## Observation 2: do entangled pairs harm? (Figure 4 and Table 5)
#
# The paper's claim: trained on (PsPr, NsNr), the coupled model has less {term}`preference bias <preference bias B>` than trained on (PsPr, PsNr), where a right strategy is rejected along with a bad reply.

# %% tags=["hide-input", "remove-output"]
KINDS = {"vanilla-sft": "SFT", "vanilla-psnr": "PsNr", "vanilla-nspr": "NsPr", "vanilla-nsnr": "NsNr", "vanilla-dpo": "all"}
LABELS = {"B": "preference bias B", "Q_W": "weighted F1", "Q": "macro F1"}
values = {label: {KINDS[name]: controlled.systems[name]["paper"][key] for name in KINDS} for key, label in LABELS.items()}
n = controlled.details["vanilla-sft"].turns
figures.show("fig_controlled", figures.estimates(values, book.source(f"n = {n:,} turns, 95% intervals")))

# %% [markdown]
# ```{glue:figure} fig_controlled
# :name: fig-controlled
# :alt: Points with intervals of preference bias, weighted F1 and macro F1 for the coupled model after SFT and after DPO on each kind of pair.
#
# The coupled model after each kind of pair, after Figure 4 of {cite:t}`zhang2025decoupledesc`; drawn as in the paper.
# Profile {glue:text}`profile_name`; 95% intervals by dialogue.
# ```

# %% tags=["hide-input"]
table_5 = replication.table_5(controlled, book.label, "The three single kinds have equal numbers of pairs, which the paper does not say of its own.")
table_5

# %% tags=["hide-input"]
difference = controlled.contrasts["vanilla-nsnr - vanilla-psnr"]["paper"]
verdict = replication.answer(-1, difference["B"], [difference["B"].value])
moved = {name: f"{r.payload['divergence']:.3f}" for name, r in trained.items()}
figures.glue_numbers(
    b_controlled=format_estimate(difference["B"], 2), qw_controlled=format_estimate(difference["Q_W"]), verdict_controlled=verdict,
    pairs_controlled=f"{trained['PsNr'].payload['pairs']:,}", moved_nsnr=moved["NsNr"], moved_psnr=moved["PsNr"],
)

# %% [markdown]
# NsNr minus PsNr, with {glue:text}`pairs_controlled` pairs each: B {glue:text}`b_controlled`, weighted F1 {glue:text}`qw_controlled`.
# The claim that B is lower after NsNr pairs: **{glue:text}`verdict_controlled`**.
# All kinds have the learning rate that was searched for all pairs together ([chapter 06](06_train_decoupled_dpo.ipynb)), and NsNr moved the model by {glue:text}`moved_nsnr` nats a token where PsNr moved it by {glue:text}`moved_psnr`: how far a model is pushed and what it is pushed by are not told apart here.
# What would change our mind: the same sign under three seeds with an interval that leaves out zero, and pairs sorted by a judge that deserves more trust than the offline one.
#
# ## Prompting instead of training
#
# These baselines train nothing.
# Each is a few questions to the base model; the functions are in `generate/baselines.py`, and no wording is the paper's.
#
# * *Direct-Refine*: answer, and revise the answer.
# * *Self-Refine*: answer, criticise, revise.
# * *Emotion CoT*: name the feeling, then answer.
# * *w/ Example*: see how another talk went, then answer.

# %% tags=["hide-input"]
prompted = {
    "Direct-Refine": book["replies-vanilla-direct-refine"],
    "Self-Refine": book["replies-vanilla-self-refine"],
    "Emotion CoT": book["replies-vanilla-emotion-cot"],
    "w/ Example": book["replies-vanilla-with-example"],
}
cost = pd.DataFrame(
    {
        name: {
            "questions a turn": len(payload["cost"]),
            "tokens read a turn": f"{sum(c['read'] for c in payload['cost'].values()) / payload['turns']:,.0f}",
            "tokens written a turn": f"{sum(c['written'] for c in payload['cost'].values()) / payload['turns']:,.0f}",
            "without a valid strategy": f"{payload['invalid'] / payload['turns']:.0%}",
        }
        for name, payload in prompted.items()
    }
).T
results_table(cost, f"What the prompting baselines cost, and whether they keep the form, profile {book.label}.")

# %% tags=["hide-input"]
transcript = [
    {"turn": turn, "baseline": name, "step": step, "said": " ".join(text.split())[:140]}
    for name in ("Self-Refine", "Emotion CoT")
    for turn, steps in list(prompted[name]["transcripts"].items())[:1]
    for step, text in steps.items()
]
results_table(pd.DataFrame(transcript).set_index("turn"), f"A transcript each; research output; profile {book.label}.")

# %% [markdown]
# A small base model has never seen an instruction.
# It does not criticise, revise or name a feeling: whatever it is asked, it goes on talking in ESConv's manner, as the transcripts show.
# Under such a profile the rows below say what these prompts do to a model that can't follow them, and nothing about prompting.
# The same functions run on an instruction-tuned backbone by its profile.

# %% tags=["hide-input"]
baselines = replication.table_3(
    measured, judged, "vanilla", book.label, " ".join(book.profile.deviations), methods=("base", "direct-refine", "self-refine", "emotion-cot")
)
baselines

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L")
example = pd.DataFrame(
    {
        name: {key: format_estimate(measured.systems[system]["paper"][key]) for key in KEYS}
        for name, system in (("base", "vanilla-base"), ("w/ Example", "vanilla-with-example"))
    }
).T
results_table(example, f"w/ Example, which Table 3 does not have; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Two planners that the paper lacks
#
# How good is a planner that reads no language model?
# One is logistic regression on words ({term}`word planner`), trained in seconds; the other knows nothing but how often people use each strategy.

# %% tags=["hide-input"]
curves = book["decoding"]
NAMES = {"gold frequencies": "gold frequencies", "word planner": "word planner", "decoupled-sft": "planner after SFT", "decoupled-dpo": "planner after SP-DPO"}
planners = pd.DataFrame(
    {
        f"{title}, {'argmax' if row['temperature'] == 0 else 'drawn at 0.7'}": {
            key: format_estimate(row[key], 2 if key == "B" else 1) for key in ("Q_W", "Q", "B")
        }
        for name, title in NAMES.items()
        for row in curves["sweeps"][name]
        if row["temperature"] in (0.0, 0.7)
    }
).T
results_table(planners, f"Planners on the test turns, by argmax and drawn, profile {book.label}; 95% intervals.")

# %% [markdown]
# Always compare within one way of decoding.
# [Chapter 14](14_measure_preference_bias.ipynb) follows these planners over all temperatures.
