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

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.evaluate.seeds import GOLD
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import backbones, figures, questions, replication
from decoupled_esc.present.forest import Forest, in_words, marks
from decoupled_esc.present.tables import format_estimate, format_scores, results_table

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
# ## The answer: do entangled pairs harm? (Observation 2)
#
# The paper's claim: trained on (PsPr, NsNr), the coupled model has less {term}`preference bias <preference bias B>` than trained on (PsPr, PsNr), where a right strategy is rejected along with a bad reply.
#
# {glue:text}`answer`

# %% tags=["hide-input"]
observed = questions.side_by_side({name: questions.observation(one) for name, one in book.everywhere("metrics-controlled").items()})
difference = controlled.contrasts["vanilla-nsnr - vanilla-psnr"]["paper"]
figures.glue_numbers(
    answer=in_words(observed), b_controlled=format_estimate(difference["B"], 2), qw_controlled=format_estimate(difference["Q_W"]),
    verdict_controlled=observed[0].answer, pairs_controlled=f"{trained['PsNr'].pairs:,}",
    moved_nsnr=f"{trained['NsNr'].divergence:.3f}", moved_psnr=f"{trained['PsNr'].divergence:.3f}",
)  # fmt: skip
Forest(observed, f"NsNr pairs minus PsNr pairs, after DecoupledESC Table 5; {marks(observed)}. Profile {book.label}, seed {book.profile.seed}.")

# %% [markdown]
# NsNr minus PsNr, with {glue:text}`pairs_controlled` pairs each: B {glue:text}`b_controlled`, weighted F1 {glue:text}`qw_controlled`.
# The claim that B is lower after NsNr pairs: **{glue:text}`verdict_controlled`**.
# After so few pairs the models have hardly moved ({glue:text}`moved_nsnr` and {glue:text}`moved_psnr` nats per token from where they started), so that little could be seen.
#
# ## Vanilla DPO
#
# One model, one loss, and a rejected turn that can be wrong in two ways at once.
# The pairs are those of [chapter 04](04_mine_preferences.ipynb): all of them for Vanilla-DPO, and for the controlled study one {term}`quadrant` at a time, cut to the size of the smallest so that only the kind differs.

# %% [markdown]
# A turn's quadrant, letter by letter: the sampled strategy against the gold one, and the judge's label of the sampled reply.

# %%
from decoupled_esc import mining
from decoupled_esc.corpus import Message, Turn

turn = Turn("d/1", "d", (Message("seeker", "I failed my exam."),), "Reflection of feelings", "That must hurt.")
faults = ("Lack of Empathy", "Early Emotion Shift", "Template Response")
found = []
for strategy, label in [(turn.strategy, "Lack of Empathy"), ("Question", "None"), ("Question", "Template Response")]:
    quadrant = ("P" if strategy == turn.strategy else "N") + "s" + ("N" if label in faults else "P") + "r"
    assert quadrant == mining.quadrant(turn, strategy, label)
    found.append(f"{strategy}, {label}: {quadrant}")
assert mining.quadrant(turn, turn.strategy, "None") is None  # nothing to reject
print("; ".join(found))

# %% tags=["hide-input"]
STEPS = {"all": "dpo-vanilla", "PsNr": "dpo-vanilla-psnr", "NsPr": "dpo-vanilla-nspr", "NsNr": "dpo-vanilla-nsnr"}
made = {name: book.stored(step).provenance for name, step in STEPS.items()}
how = pd.DataFrame(
    {
        name: {
            "pairs": f"{run.pairs:,}",
            "KL from the reference, nats per token": f"{run.divergence:.3f}",
            "gold turn, nats per token": f"{run.held_out_loss_before:.3f} → {run.held_out_loss:.3f}",
            "minutes (other jobs beside it)": f"{made[name]['wall_seconds'] / 60:.1f}",
            "peak memory, GiB": f"{made[name]['peak_memory_mib'] / 1024:.1f}",
        }
        for name, run in trained.items()
    }
).T
results_table(how, f"Preference optimisation of the coupled model by kind of rejected turn, profile {book.label}.")

# %% tags=["hide-input", "remove-output"]
runs = {name: run for name, run in trained.items() if name != "NsPr"}
figures.show("fig_vanilla_curves", figures.preference_curves(runs, book.source("mean over the pairs of the steps between two logs")))

# %% [markdown]
# ```{glue:figure} fig_vanilla_curves
# :name: fig-vanilla-curves
# :alt: Rewards, margin, accuracy and divergence from the reference over training steps for the coupled model on all pairs, on PsNr pairs and on NsNr pairs.
#
# Preference optimisation of the coupled model on three sets of pairs.  Profile {glue:text}`profile_name`; training pairs, without intervals.
# ```
#
# ## DecoupledESC Figure 4 and Table 5: one kind of pair at a time

# %% tags=["hide-input", "remove-output"]
from decoupled_esc.present.paper import load_tables

KINDS = {"vanilla-sft": "SFT", "vanilla-psnr": "PsNr", "vanilla-nspr": "NsPr", "vanilla-nsnr": "NsNr", "vanilla-dpo": "all"}
LABELS = {"B": "preference bias B", "Q_W": "weighted F1", "Q": "macro F1"}
values = {label: {KINDS[name]: controlled.systems[name]["paper"][key] for name in KINDS} for key, label in LABELS.items()}
PRINTED = {"SFT": ("decoupledesc/table-3", "{}/vanilla/sft"), **{kind: ("decoupledesc/table-5", f"{{}}/{kind.lower()}") for kind in ("PsNr", "NsPr", "NsNr", "all")}}
printed = {
    label: {kind: {of: load_tables()[table].value(row.format(of), key) for of in ("qwen2.5-7b", "llama3.1-8b")} for kind, (table, row) in PRINTED.items()}
    for key, label in LABELS.items()
}
n = controlled.details["vanilla-sft"].turns
figures.show("fig_controlled", figures.estimates(values, book.source(f"n = {n:,} turns, 95% intervals"), printed))

# %% [markdown]
# ```{glue:figure} fig_controlled
# :name: fig-controlled
# :alt: Points with intervals of preference bias, weighted F1 and macro F1 for the coupled model after SFT and after DPO on each kind of pair, below hollow marks of what the paper prints for Qwen and Llama.
#
# The coupled model after each kind of pair, after Figure 4 (a) of {cite:t}`zhang2025decoupledesc`; sampled as in the paper.
# Hollow marks: the paper's Qwen2.5-7B and Llama-3.1-8B, from its Tables 3 and 5, printed without intervals.
# Profile {glue:text}`profile_name`; 95% intervals by dialogue.
# ```

# %% [markdown]
# B is the spread of eight strengths $p_i$ ([chapter 08](08_evaluate_systems.ipynb)), and the paper's second panel shows the strategies behind it.
# Look for models whose dots keep close to the line.

# %% tags=["hide-input", "remove-output"]
strengths = {KINDS[name]: controlled.details[name].preference["paper"] for name in KINDS}
figures.show("fig_controlled_strategies", figures.strategy_strengths(strengths, book.source(f"n = {n:,} turns")))

# %% [markdown]
# ```{glue:figure} fig_controlled_strategies
# :name: fig-controlled-strategies
# :alt: Dots of the strength of eight strategies for the coupled model after SFT and after DPO on each kind of pair, around a line at 1.
#
# How strongly the coupled model prefers each strategy after each kind of pair, after Figure 4 (b) of {cite:t}`zhang2025decoupledesc`; 1 is neither favoured nor avoided.
# Profile {glue:text}`profile_name`; sampled; one training run each, without intervals.
# ```

# %% tags=["hide-input"]
table_5 = replication.table_5(controlled, book.label, "The three single kinds have equal numbers of pairs, which the paper does not say of its own.")
table_5

# %% [markdown]
# All kinds have the learning rate that was searched for all pairs together ([chapter 06](06_train_decoupled_dpo.ipynb)), and NsNr moved the model by {glue:text}`moved_nsnr` nats per token where PsNr moved it by {glue:text}`moved_psnr`: how far a model is pushed and what it is pushed by are not told apart here.
# What would change our mind: the same sign under three seeds with an interval that excludes zero, and pairs sorted by a judge that deserves more trust than the offline one.
#
# ## Does Vanilla-DPO lean on *Question*? (DecoupledESC section 3.2)
#
# The paper says that Vanilla-DPO relies heavily on *Question* and so reduces preference bias little; its Figure 3 shows it beside the human reference, without numbers.
# Here are our shares over the seeds of the research questions: what exceeds the human reference is leaning, and what exceeds SFT was brought by DPO.

# %% tags=["hide-input"]
shares = book["strategy-shares"]
excess = {name: shares.contrasts[name]["Question"] for name in (f"vanilla-dpo - {GOLD}", f"vanilla-sft - {GOLD}", "vanilla-dpo - vanilla-sft")}
figures.glue_numbers(
    question_human=format_estimate(shares.systems[GOLD]["Question"]), question_sft=format_estimate(shares.systems["vanilla-sft"]["Question"]),
    question_dpo=format_estimate(shares.systems["vanilla-dpo"]["Question"]), question_answer=questions.leaning(shares), share_seeds=len(shares.seeds),
    **dict(zip(("question_excess", "question_before", "question_gain"), (format_estimate(one, sign="+") for one in excess.values()))),
)  # fmt: skip
results_table(questions.strategy_shares(shares), f"Share of each strategy, in per cent of all test turns, over {len(shares.seeds)} seed(s); profile {book.label}; 95% intervals.")

# %% [markdown]
# *Question* is {glue:text}`question_human`% of the human reference's turns, {glue:text}`question_sft`% of Vanilla-SFT's and {glue:text}`question_dpo`% of Vanilla-DPO's.
# Vanilla-DPO exceeds the human reference by {glue:text}`question_excess` points, where SFT exceeds it by {glue:text}`question_before`; DPO changes the share by {glue:text}`question_gain`.
# The claim that Vanilla-DPO leans on *Question*: **{glue:text}`question_answer`** over {glue:text}`share_seeds` seed(s), by the rule of [chapter 09](09_ask_rq1.ipynb).
#
# ## Prompting instead of training (DecoupledESC Table 3)
#
# These baselines train nothing.
# Each is a few questions to the base model; the functions are in `generate/baselines.py`, and no wording is the paper's.
#
# * *Direct-Refine*: answer, and revise the answer.
# * *Self-Refine*: answer, criticise, revise.
# * *Emotion CoT*: name the feeling, then answer.
# * *w/ Example*: see how another conversation went, then answer.

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
            "questions per turn": len(found.cost),
            "tokens read per turn": f"{sum(step.read for step in found.cost.values()) / found.turns:,.0f}",
            "tokens written per turn": f"{sum(step.written for step in found.cost.values()) / found.turns:,.0f}",
            "without a valid strategy": f"{found.invalid / found.turns:.0%}",
        }
        for name, found in prompted.items()
    }
).T
results_table(cost, f"What the prompting baselines cost, and whether they keep the form, profile {book.label}.")

# %% tags=["hide-input"]
transcript = [
    {"turn": turn, "baseline": name, "step": step, "model output": " ".join(text.split())[:140]}
    for name in ("Self-Refine", "Emotion CoT")
    for turn, steps in list(prompted[name].transcripts.items())[:1]
    for step, text in steps.items()
]
results_table(pd.DataFrame(transcript).set_index("turn"), f"A transcript per baseline; research output; profile {book.label}.")

# %% [markdown]
# A small base model has never seen an instruction.
# It does not criticise, revise or name a feeling: whatever it is asked, it goes on talking in ESConv's manner, as the transcripts show.
# Under such a profile the rows below say what these prompts do to a model that can't follow them, and nothing about prompting.
# The same functions run on an instruction-tuned backbone by its profile.

# %% tags=["hide-input"]
METHODS = ("base", "direct-refine", "self-refine", "emotion-cot")
baselines = replication.table_3(measured, judged, "vanilla", book.label, " ".join(book.profile.deviations), methods=METHODS)
baselines.beside(book.backbone, backbones.tables_3(book.beside, book.everywhere("metrics"), "vanilla", methods=METHODS))

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L")
example = pd.DataFrame(
    {name: format_scores(measured.systems[system]["paper"], KEYS) for name, system in (("base", "vanilla-base"), ("w/ Example", "vanilla-with-example"))}
).T
results_table(example, f"w/ Example, which Table 3 does not have; profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Two planners that the paper lacks
#
# How good is a planner that reads no language model?
# One is logistic regression on words ({term}`word planner`), trained in seconds; the other knows nothing but how often the human references use each strategy.

# %% tags=["hide-input"]
curves = book["decoding"]
NAMES = {"gold frequencies": "gold frequencies", "word planner": "word planner", "decoupled-sft": "planner after SFT", "decoupled-dpo": "planner after SP-DPO"}
planners = pd.DataFrame(
    {
        f"{title}, {'argmax' if row.temperature == 0 else 'sampled at T = 0.7'}": format_scores(vars(row), ("Q_W", "Q", "B"))
        for name, title in NAMES.items()
        for row in curves.sweeps[name]
        if row.temperature in (0.0, 0.7)
    }
).T
results_table(planners, f"Planners on the test turns, by argmax and sampled, profile {book.label}; 95% intervals.")

# %% [markdown]
# Always compare within one way of decoding.
# [Chapter 14](14_measure_preference_bias.ipynb) follows these planners over all temperatures.

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-07-read
#
# Why are the three kinds of pairs cut to equal numbers before training, and what is not equal even then?
# ````
#
# ````{solution} ex-07-read
# :class: dropdown
#
# With unequal numbers a difference could come from the number of steps alone.
# Even so, the same learning rate moves the model by different amounts, as the column KL shows: how far a model is pushed and what it is pushed by are not told apart.
# ````
#
# ````{exercise} compute
# :label: ex-07-compute
#
# A coupled model's turn has the log-probability of its strategy plus that of the reply under it.
# In a PsNr pair both sides have the *same* strategy.
# What is the gradient of the DPO loss with respect to the strategy's log-probability there, and what is it in an NsNr pair?
#
# ```python
# import torch
# from turn_trees.losses import dpo
#
# gold_strategy, other_strategy = (torch.tensor(x, requires_grad=True) for x in (-1.0, -2.0))
# good_reply, bad_reply = torch.tensor(-20.0), torch.tensor(-15.0)
# reference = {"PsNr": (-21.0, -16.0), "NsNr": (-21.0, -17.0)}
# ```
# ````
#
# ````{solution} ex-07-compute
# :class: dropdown
#
# ```python
# for kind, wrong in (("PsNr", gold_strategy), ("NsNr", other_strategy)):
#     of_reference = map(torch.tensor, reference[kind])
#     loss = dpo(gold_strategy + good_reply, wrong + bad_reply, *of_reference, beta=0.2)
#     of_gold, of_other = torch.autograd.grad(loss, (gold_strategy, other_strategy), allow_unused=True)
#     print(kind, f"{of_gold:.2f}", "–" if of_other is None else f"{of_other:.2f}")
# # PsNr 0.00 –
# # NsNr -0.10 0.10
# ```
#
# In a PsNr pair the strategy's term stands on both sides and cancels: the pair says nothing of the choice itself.
# If strategies get worse by it, then through weights that reply and strategy share, which is what decoupling takes apart; an NsNr pair corrects the strategy as well.
# ````
#
# ````{exercise} change
# :label: ex-07-change
#
# Change the pair into NsPr: the model chose another strategy, and its reply under it is sound.
# What does the loss ask for that reply?
#
# ```python
# sound_reply = torch.tensor(-15.0, requires_grad=True)  # its log-probability, under the other strategy
# ```
# ````
#
# ````{solution} ex-07-change
# :class: dropdown
#
# ```python
# of_reference = map(torch.tensor, reference["NsNr"])
# loss = dpo(gold_strategy + good_reply, other_strategy + sound_reply, *of_reference, beta=0.2)
# (of_sound,) = torch.autograd.grad(loss, sound_reply)
# print(f"{of_sound:.2f}")  # 0.10
# ```
#
# A positive gradient: descent makes the sound reply less probable, to the same degree as the wrong strategy, because the loss sees only their sum.
# A decoupled system has no such pair: the strategy pair holds two names and no reply.
# ````
