# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 Mining preferences: learning from one's own mistakes
#
# A model that was fine-tuned on good conversations still goes wrong ([chapter 03](03_observe_errors.ipynb)).
# Inferential Preference Mining {cite}`zhang2025decoupledesc` turns this into data: let the model answer the training turns, and where its answer is worse than the human reference, keep both.
# Each {term}`preference pair` then goes to the model whose fault it was: a wrong strategy to the planner, a faulty reply to the generator.
#
# :::{admonition} Research output
# :class: research-output
# Replies marked *rejected* on this page were written by small experimental models, and some are nonsense.
# The conversations are short excerpts of ESConv {cite}`liu2021esconv`; what seekers and supporters wrote there is not judged here as counselling, and nothing on this page is counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc import mining, taxonomy
from decoupled_esc.evaluate import Estimate
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, judge_tables, replication
from decoupled_esc.present.tables import format_estimate, results_table
from decoupled_esc.experiments.run import open_book

book = open_book(globals())
pairs = book["pairs"]
figures.glue_numbers(profile_name=book.label, judge=pairs.judge, turns=f"{pairs.turns:,}")

# %% [markdown]
# ## The answer
#
# **{glue:text}`strategy_pairs` strategy pairs and {glue:text}`response_pairs` response pairs.**
# A strategy pair asks no judge; a response pair is worth what its judge is worth.
# Among replies by writers that it does not know, GPT's labels give one of the three errors that make a response pair to {glue:text}`three_of_picked`% of those in which this judge sees one, and to {glue:text}`three_of_all`% of all.
# {glue:text}`chosen_empathy`
#
# ## Candidates
#
# Three fine-tuned models answer every one of the {glue:text}`turns` training turns, sampled as at test time: the planner names a strategy, the generator replies under the *gold* strategy, and the vanilla model does both at once.
# What they should have said is known: it stands in the corpus.

# %% tags=["hide-input"]
sampled = pd.DataFrame(
    {
        role: {
            "samples per turn": number,
            "strategy as gold, %": f"{pairs.agree[role]:.1f}" if role in pairs.agree else "given",
        }
        for role, number in pairs.samples.items()
    }
).T
results_table(sampled, f"What was sampled on the training turns, profile {book.label}.")

# %% [markdown]
# Look at how seldom a sampled strategy is the gold one, on turns that the model was trained on.
# Most of what follows is made of that.
#
# ## Routing
#
# Follow the dark bands: they are the pairs, and each goes to the model whose fault it was.

# %% tags=["hide-input", "remove-output"]
from decoupled_esc.present import drawings

drawings.show("fig_routing", drawings.routing(pairs))

# %% [markdown]
# ```{glue:figure} fig_routing
# :name: fig-routing
#
# What becomes of the samples on the training turns: dark, rejected sides of preference pairs, with the model that learns from them; light, no pair.
# All widths have one scale. Profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# The error in a reply says which of the two models it is to teach.
# Here the errors were seen by: {glue:text}`judge`.
# An offline judge has learned from no label of a reply at a test or validation dialogue.
# [Chapter 03](03_observe_errors.ipynb) measures how far it can be trusted, which is not far: it is tested there on replies at the test dialogues by writers that it did not learn from, and these models are such writers.

# %% tags=["hide-input"]
total = {who: sum(counts.values()) for who, counts in pairs.candidates.items()}
routed = pd.DataFrame(
    {
        label: {
            "goes to": mining.ROUTES[label] or "none",
            **{f"{'human reference' if who == 'gold' else who}, %": f"{100 * counts.get(label, 0) / total[who]:.1f}" for who, counts in pairs.candidates.items()},
        }
        for label in LABELS
    }
).T
figures.glue_numbers(**{f"fault_{who}": f"{100 * (1 - counts.get('None', 0) / total[who]):.0f}" for who, counts in pairs.candidates.items()})
results_table(routed, f"Errors seen in replies at the training turns, profile {book.label}; shares without intervals.")

# %% [markdown]
# *Goes to* is the paper's text; that a strategy is another one than gold is seen without a judge, so that the planner's pairs ask none.
# The column *human reference* is the check on the judge: these are the replies that the pairs will prefer.
# It gives a fault to {glue:text}`fault_gold`% of them, and to {glue:text}`fault_vanilla`% of the coupled model's: where it finds fault with people no less often than with models, it has failed the check.
#
# In the authors' code the strategy pairs ask no judge at all: every sampled strategy that is not the gold one is rejected.
# For a response pair the judge must see one of three errors in the sampled reply, and none of the three in the gold one.
# One turn, answered once:

# %%
from decoupled_esc.corpus import Message, Turn

THREE = {"Lack of Empathy", "Early Emotion Shift", "Template Response"}
turn = Turn("d/1", "d", (Message("seeker", "I failed my exam."),), "Reflection of feelings", "That must hurt.")
# Sampled, the reply under the gold strategy
plan, reply = "Providing Suggestions", "Cheer up, you will pass the next one!"
# What the judge saw in both replies
of_gold, of_reply = "None", "Early Emotion Shift"
to_planner = plan != turn.strategy
to_generator = of_gold not in THREE and of_reply in THREE
strategy_pairs, _ = mining.strategy_pairs([turn], [{turn.id: plan}])
response_pairs, _ = mining.response_pairs([turn], [{turn.id: reply}], [{turn.id: (of_gold, of_reply)}])
assert (to_planner, to_generator) == (bool(strategy_pairs), bool(response_pairs))
print(f"a pair for the planner: {to_planner}; a pair for the generator: {to_generator}")

# %% [markdown]
# Here is why the other samples gave no pair.

# %% tags=["hide-input"]
reasons = pd.DataFrame(
    [{"kind": kind, "why": why, "samples": f"{count:,}"} for kind, counts in pairs.left.items() for why, count in counts.items()]
).set_index("kind")
results_table(reasons, f"Samples that gave no pair, and why; profile {book.label}.")

# %% [markdown]
# ## DecoupledESC Table 1, second half
#
# The paper mined with two models of seven and eight billion parameters, and judged with an LLM.

# %% tags=["hide-input"]
table = replication.table_1_mined(pairs, book.label)
table

# %% tags=["hide-input"]
figures.glue_numbers(
    strategy_pairs=f"{pairs.pairs['strategy']:,}", response_pairs=f"{pairs.pairs['response']:,}",
    chosen=f"{pairs.characters.chosen:.0f}", rejected=f"{pairs.characters.rejected:.0f}",
)

# %% [markdown]
# {glue:text}`strategy_pairs` strategy pairs and {glue:text}`response_pairs` response pairs.
# That the first number is near the paper's says little about the model: it counts how often one sample misses one of eight strategies, and a small planner misses about as often as a large one.
# Chosen replies have {glue:text}`chosen` characters on average and rejected ones {glue:text}`rejected`.
# Any preference optimisation on these pairs is told, among other things, to say more.
#
# ## DecoupledESC Figure 9: strategies in the pairs

# %% tags=["hide-input", "remove-output"]
SHORT = [s.abbreviation for s in taxonomy.ESCONV]
sides = {}
for kind in ("strategy",):
    for side, counts in vars(pairs.strategies[kind]).items():
        sides[side] = {name: Estimate(100 * count / max(1, sum(counts))) for name, count in zip(SHORT, counts, strict=True)}
source = book.source(f"n = {pairs.pairs['strategy']:,} strategy pairs")
figures.show("fig_pair_strategies", figures.shares(sides, source, "share of pairs (%)"))

# %% [markdown]
# ```{glue:figure} fig_pair_strategies
# :name: fig-pair-strategies
# :alt: Bars of the share of eight strategies on the chosen and on the rejected side of the strategy pairs.
#
# Strategies on both sides of the strategy pairs, after Figure 9 of {cite:t}`zhang2025decoupledesc`.
# Profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# Where the rejected bar is higher, the pairs teach the planner to use that strategy less.
# SP-DPO is, in part, a lesson in frequencies.
#
# ## DecoupledESC Figure 10: errors in the rejected replies

# %% tags=["hide-input", "remove-output"]
from decoupled_esc.present.paper import load_tables

kinds = {"response": "response pairs", "vanilla": "vanilla pairs"}
errors = {
    title: {label: Estimate(100 * pairs.errors[kind].get(label, 0) / max(1, pairs.pairs[kind])) for label in LABELS}
    for kind, title in kinds.items()
}
source = book.source(f"n = {pairs.pairs['response']:,} and {pairs.pairs['vanilla']:,} pairs, by the {pairs.judge}")
mined = load_tables()["decoupledesc/table-1"]
ROWS = {"Lack of Empathy": "lack-of-empathy", "Early Emotion Shift": "early-emotion-shift", "Template Response": "template-response"}
theirs = {
    f"{name}, response pairs": {
        label: Estimate(100 * mined.value(f"ipm-prefdial/{row}", key) / mined.value("ipm-prefdial/response-pairs", key)) for label, row in ROWS.items()
    }
    for key, name in (("qwen", "Qwen"), ("llama", "Llama"))
}
figures.show("fig_pair_errors", figures.shares_by_judge({"DecoupledESC, by its LLM judge": theirs, "here, by the offline judge" if book.profile.judge is None else "here, by an LLM judge": errors}, source, "share of rejected replies (%)"))

# %% [markdown]
# ```{glue:figure} fig_pair_errors
# :name: fig-pair-errors
# :alt: Above, hollow bars of the paper's shares of three psychological errors in rejected replies, for Qwen and Llama; below, bars of our shares of each error in the rejected replies of response pairs and of vanilla pairs.
#
# Errors in the rejected replies, after Figure 10 of {cite:t}`zhang2025decoupledesc`: above the paper's, from the counts of its Table 1; below ours, judged by: {glue:text}`judge`.
# Two judges made the two panels, so that a bar of one is not to be held against a bar of the other.
# Profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# ### How many of them have the error?
#
# A share by a judge can be corrected ([chapter 12](12_ask_rq4.ipynb)) where the judge did not choose the replies.
# These it chose: a rejected reply of a response pair is there because the judge saw an error in it, so of the shares in the figure nothing corrected can be said.
# What can be said is how often GPT's labels agree where this judge picks a reply, at test dialogues and for writers that it did not learn from.

# %% tags=["hide-input"]
classifier = book["error-classifier"]
unknown = isinstance(classifier, Missing) or book.profile.judge is not None
counts = {kind: pairs.errors[kind] for kind in kinds}
training = None if unknown else classifier.training
figures.glue_numbers(
    three_of_picked="–" if unknown else format_estimate(judge_tables.precision(training, "any of three")),
    three_of_all="–" if unknown else f"{100 * training.errors['any of three'].labelled / training.by_source['all'].replies:.1f}",
)  # fmt: skip
results_table(
    Missing("this profile's pairs are another judge's") if book.profile.judge is not None else judge_tables.selected_shares(classifier, counts, kinds),
    f"Share of rejected replies with each error by the judge that mined them, profile {book.label}, and how often GPT's labels give it to replies of two models at test dialogues, in per cent: to those in which the judge sees it, with 95% intervals, and to all.",
)

# %% [markdown]
# If the judge errs on our models' replies as on those, a response pair's rejected reply has one of the three errors in {glue:text}`three_of_picked`% of cases by GPT's labels, which are a judge's as well.
#
# ## The quadrants of DecoupledESC Figure 1
#
# A vanilla model's turn can be wrong in its strategy, in its response, or in both; P and N stand for positive and negative, s and r for strategy and response.
# The chosen turn is PsPr.
# *PsNr* rejects a right strategy for the sake of a bad reply, *NsPr* a sound reply for the sake of a wrong strategy: these are the entangled pairs, in which a coupled model is told to unlearn what was right.

# %% tags=["hide-input"]
counted = {name: sum(labels.values()) for name, labels in pairs.filters["this book"].items()}
vanilla = sum(counted.values())
MEANS = {"PsNr": "right strategy, faulty reply", "NsPr": "wrong strategy, sound reply", "NsNr": "wrong strategy, faulty reply"}
quadrants = pd.DataFrame(
    {name: {"rejected turn": MEANS[name], "pairs": f"{counted.get(name, 0):,}", "share, %": f"{100 * counted.get(name, 0) / max(1, vanilla):.1f}"} for name in mining.QUADRANTS}
).T
entangled = counted.get("PsNr", 0) + counted.get("NsPr", 0)
figures.glue_numbers(entangled=f"{100 * entangled / max(1, vanilla):.0f}", vanilla_pairs=f"{vanilla:,}")
results_table(quadrants, f"Vanilla pairs by what is wrong with the rejected turn, profile {book.label}.")

# %% [markdown]
# {glue:text}`entangled`% of the {glue:text}`vanilla_pairs` vanilla pairs are entangled.
# *Right* means "as the human supporter chose", though other strategies may fit as well; so *NsPr* also holds turns with nothing wrong at all.
#
# ### By which filter
#
# How large each quadrant is depends on the filter that a pair has to pass.
# All readings below agree on the chosen side, in which the judge must see none of the three errors of a generator, and on what N means: *Ns* is a strategy that is not the gold one, *Nr* a reply in which the judge sees one of the three.
# They differ in what lets a pair with a sound reply pass:
#
# * *this book*: a wrong strategy is enough, whatever the judge says of the reply. The pairs of the table above, from which the vanilla model learns.
# * *four errors (section 4.1)*: the paper's text routes pairs by four errors, the three and strategy mismatch. A wrong strategy counts if the judge saw a mismatch as well.
# * *three errors (authors' code)*: coupled pairs pass the same filter as response pairs, so there is no NsPr. Section 3.2 of the paper compares PsNr and NsNr alone, which fits; Table 5 has models trained on NsPr, which does not.
#
# A row is a quadrant and what the judge saw in the rejected reply.

# %% tags=["hide-input"]
ways = pairs.filters
by_filter = pd.DataFrame(
    [
        {"quadrant": quadrant, "seen in the rejected reply": label, "strategy": "as gold" if quadrant.startswith("Ps") else "not gold"}
        | {way: f"{ways[way][quadrant].get(label, 0):,}" if way in ways else "mismatch not asked" for way in mining.FILTERS}
        for quadrant, labels in ways["this book"].items()
        for label in labels
    ]
    or [{"quadrant": "–", "seen in the rejected reply": "no pairs"}]
).set_index("quadrant")
results_table(by_filter, f"Vanilla pairs by quadrant, label and filter, profile {book.label}.")

# %% tags=["hide-input"]
totals = {way: {quadrant: sum(labels.values()) for quadrant, labels in of.items()} for way, of in ways.items()}
by_way = pd.DataFrame(
    {
        way: {"pairs": f"{sum(of.values()):,}", **{f"{name}, %": f"{100 * of[name] / max(1, sum(of.values())):.1f}" for name in mining.QUADRANTS}}
        for way, of in totals.items()
    }
).T
unlike = {way: f"{100 * of['NsPr'] / max(1, sum(of.values())):.1f}% ({way})" for way, of in totals.items()}
figures.glue_numbers(nspr_by_filter=", ".join(unlike.values()))
results_table(by_way, f"Share of each quadrant among the vanilla pairs that pass each filter, profile {book.label}.")

# %% [markdown]
# NsPr makes up {glue:text}`nspr_by_filter` of the vanilla pairs.
# Nothing here says which of these mixtures the paper trained on; the quadrants are compared in equal numbers in [chapter 07](07_train_vanilla_baselines.ipynb), whatever the filter.
#
# ## Examples, after DecoupledESC Figures 11 to 14
#
# One mined pair for each error: the shortest of those that have some words on every side, not the most telling.

# %% tags=["hide-input"]
shown = pd.DataFrame(
    [
        {
            "error": e.error, "seeker (ESConv)": e.seeker, "chosen (human reference)": f"[{e.chosen_strategy}] {e.chosen}",
            "rejected (model output)": f"[{e.rejected_strategy}] {e.rejected}", "pair": e.id,
        }
        for e in pairs.examples
    ] or [{"error": "–", "pair": "no pair has enough words on every side"}]
).set_index("error")
results_table(shown, f"Mined pairs, one per error; excerpts of ESConv (Liu et al. 2021) and research output; profile {book.label}.")

# %% [markdown]
# Read them with the judge in mind.
# In some the rejected reply is plainly worse; in others the label fits neither side.
#
# ## Are the chosen replies better? (DecoupledESC Table 2)
#
# The paper had its LLM judge score both sides of 100 pairs, and by all that its appendix tells the judge saw the human reference beside them.
# Here the chosen reply *is* the human reference, so that the chosen side would be scored beside its own copy; our judge is not shown it.
# That is another protocol: where this profile has the paper's judge, its scores stand in the table, and nothing of them is compared.

# %% tags=["hide-input"]
judged = book["judged"]
quality = replication.table_2(judged, book.label)
quality

# %% tags=["hide-input"]
scale = pairs.empathy
if scale is None:
    figures.glue_numbers(chosen_empathy="Whether the chosen replies show more empathy was not measured here.")
    by_scale = pd.DataFrame({"empathy scale": {"not measured": "no ratings of empathy at hand"}})
else:
    gap = scale.contrasts["chosen - rejected"]
    figures.glue_numbers(chosen_empathy=f"By the offline empathy scale the chosen reply differs from the rejected one by {', '.join(f'{format_estimate(e, 2)} in {measure}' for measure, e in gap.items())}.")
    by_scale = pd.DataFrame(
        {
            side: {measure: format_estimate(e, 2) for measure, e in row.items()}
            for side, row in {**scale.systems, "chosen minus rejected": scale.contrasts["chosen - rejected"]}.items()
        }
    ).T
results_table(by_scale, f"Mechanisms of empathy (0 to 2) in all response pairs by the offline empathy scale, profile {book.label}; 95% intervals.")

# %% [markdown]
# The empathy scale is no LLM judge, and [chapter 03](03_observe_errors.ipynb) says what it can't see.
# It can't be corrected for what it gets wrong, as the error shares of [chapter 12](12_ask_rq4.ipynb) are: nobody rated the empathy of such replies, so that how far it is off for them is unknown.
# Where *chosen minus rejected* is not above zero, the pairs do not teach what this scale calls empathy, although the paper's judge gives its chosen replies 33 to 39% more of it.
#
# ## The files
#
# `decoupled-esc run --profile laptop pairs` leaves `strategy.jsonl`, `response.jsonl` and `vanilla.jsonl` in `runs/laptop/pairs/`, with a data card.
# A row holds ids, the rejected side, the labels, the judge and the sampling settings; the corpus's text is not copied.
#
# ```python
# from datasets import load_dataset
# load_dataset("json", data_files="runs/laptop/pairs/response.jsonl")
# ```

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-04-read
#
# Which pairs need a judge and which do without one?
# What does the judge have to see, and where?
# ````
#
# ````{solution} ex-04-read
# :class: dropdown
#
# Strategy pairs need none: any sampled strategy that is not the gold one is rejected.
# For response and vanilla pairs the judge must see none of the three errors of a generator in the gold reply; for a response pair it must see one of the three in the sampled reply, which a vanilla pair with a wrong strategy can do without.
# ````
#
# ````{exercise} compute
# :label: ex-04-compute
#
# A coupled model answers one turn five times.
# How many of the samples become vanilla pairs, and what share of these is entangled?
#
# ```python
# from collections import Counter
# from decoupled_esc import mining
# from decoupled_esc.corpus import Message, Turn
#
# turn = Turn("d/1", "d", (Message("seeker", "I can't sleep."),), "Question", "Since when?")
# samples = [("Question", "None"), ("Question", "Lack of Empathy"), ("Information", "None"),
#            ("Others", "Template Response"), ("Question", "Emotion Misread")]  # strategy, and the judge's label
# ```
# ````
#
# ````{solution} ex-04-compute
# :class: dropdown
#
# ```python
# quadrants = Counter(mining.quadrant(turn, strategy, label) for strategy, label in samples)
# pairs = sum(count for name, count in quadrants.items() if name)
# print(pairs, dict(quadrants))  # 3 {None: 2, 'PsNr': 1, 'NsPr': 1, 'NsNr': 1}
# print(f"{(quadrants['PsNr'] + quadrants['NsPr']) / pairs:.2f} entangled")  # 0.67 entangled
# ```
#
# A misread emotion is none of the three errors that the filter asks for, so that the last sample counts as sound.
# ````
#
# ````{exercise} change
# :label: ex-04-change
#
# In the cell of one turn above, let the judge see a template in the *gold* reply, `of_gold = "Template Response"`.
# Which of the two pairs is lost, and is that right?
# ````
#
# ````{solution} ex-04-change
# :class: dropdown
#
# ```python
# from decoupled_esc.evaluate.judges import kept
#
# print(kept("None", "Early Emotion Shift"), kept("Template Response", "Early Emotion Shift"))  # True False
# ```
#
# The response pair: its chosen side must have none of the three errors, or the generator would be taught one of them.
# The strategy pair stays, since no judge is asked about it.
# It is right if the judge is; where it finds fault with sound replies, the filter throws away good pairs and says nothing of it.
# ````
