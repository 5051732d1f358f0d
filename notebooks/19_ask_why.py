# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 19 Why do systems differ?
#
# Chapters [09](09_ask_rq1.ipynb) to [12](12_ask_rq4.ipynb) ask whether one system scores higher than another.
# This one asks what carries a difference, in six studies that neither paper has.
# Each states its question, its contrast and its rule before its numbers.
#
# | study | question |
# |---|---|
# | [1](plans-or-words) | Is it the decoupling: the plans, or the words? And if the plans, [what of them](what-the-planner-sees)? |
# | [2](a-better-plan) | Does a better plan give a reply closer to the human one? |
# | [3](several-right-strategies) | Is the gold strategy the only right one? |
# | [4](where-b-comes-from) | Where does preference bias B come from? |
# | [5](is-it-the-preference) | Is it the preference optimisation, or would other pairs and no rejected side do? |
# | [6](how-small-an-effect) | How small an effect could the papers have seen? |
#
# **How far they reach.**
# The models are small, trained once for each seed that a caption names: the first backbone, and in the first table SmolLM2 as well; figures and texts below are of the first.
# Under one seed an interval covers other dialogues, not other training runs: it says how *these* models differ.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about strategies and replies of experimental models; nothing here is counselling, and no reply is shown.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.evaluate.judges import FILTERED
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, power, why
from decoupled_esc.present.questions import FIRST
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
base = book["base-model"]
size = f", {base.parameters / 1e6:.1f}M parameters" if base.parameters else ""


def models(seeds: tuple[int, ...]) -> str:
    """What a caption says of the models: their base, and the seeds that they were trained under."""
    return f"models from {base.name}{size}, seed(s) {', '.join(map(str, seeds))}"


figures.glue_numbers(profile_name=book.label)

# %% [markdown]
# ## The answers
#
# Each backbone on its own; a dash stands where a study was not made for it.

# %% tags=["hide-input"]
everywhere = {
    "plans-and-words": book.everywhere("plans-and-words"), "given-strategies": book.everywhere("given-strategies"),
    "accepted-strategies": book.everywhere("accepted-strategies"), "bias-sources": book.everywhere("bias-sources"),
}  # fmt: skip
trained = "; ".join(f"{name}: seed(s) {', '.join(map(str, found.seeds))}" for name, found in everywhere["bias-sources"].items())
results_table(why.by_backbone(everywhere), f"Studies 1 to 4, a number or a clause each, by backbone; profile {book.label}, {trained}; 95% intervals by dialogue.{book.caveats}")

# %% [markdown]
# (plans-or-words)=
# ## 1. Is it the decoupling: the plans, or the words?
#
# **Question.** Decoupled-SFT differs from Vanilla-SFT in who names the strategy and in who words the reply. Which of the two carries the difference?
#
# **Contrast.** Two by two: strategies that the coupled model sampled, or that the planner sampled; under each, words of the coupled model, which goes on from the tag that it is given, or of the generator.
# With $Y_{pw}$ the score of plans $p$ and words $w$ (0: coupled, 1: decoupled), the difference is the sum of two main effects:
#
# $$Y_{11} - Y_{00} = \underbrace{\tfrac12[(Y_{10} - Y_{00}) + (Y_{11} - Y_{01})]}_{\text{plans}} + \underbrace{\tfrac12[(Y_{01} - Y_{00}) + (Y_{11} - Y_{10})]}_{\text{words}}$$
#
# **Rule.** A part carries a difference if the interval of its main effect excludes 0; the first metric is F1 of the replies.
# Strategy metrics depend on plans alone, so their difference is the planner's whatever comes out below.

# %%
old, plans, words, both = (
    18.0,
    18.1,
    18.9,
    19.2,
)  # Y_00, Y_10, Y_01, Y_11: numbers made up for the example
of_plans, of_words = ((plans - old) + (both - words)) / 2, ((words - old) + (both - plans)) / 2
print(f"plans {of_plans:.2f} + words {of_words:.2f} = {both - old:.2f}")
assert abs(of_plans + of_words - (both - old)) < 1e-9

# %% tags=["hide-input", "remove-output"]
parts = book["plans-and-words"]
TEXT = {"F1": "F1", "R-L": "ROUGE-L", "B-1": "BLEU-1", "D-1": "Distinct-1", "words": "words per reply"}
ROWS = {"total": "both", "plans": "plans", "words": "words", "interaction": "interaction"}
lost = isinstance(parts, Missing)
source = book.source("Decoupled-SFT minus Vanilla-SFT, 95% intervals by dialogue")
drawn = {} if lost else {title: {name: parts.effects[row][key] for row, name in ROWS.items()} for key, title in TEXT.items()}
figures.show("fig_parts", figures.nothing_here(parts.reason, source) if lost else figures.estimates(drawn, source))
said = {key: "–" if lost else why.which_part(parts.effects, key) for key in ("F1", "D-1", "words")}
planned = book["metrics"].contrasts["decoupled-sft - vanilla-sft"]["paper"]
figures.glue_numbers(
    parts_f1=said["F1"], parts_d1=said["D-1"], parts_words=said["words"], parts_models="–" if lost else models(parts.seeds), parts_turns="–" if lost else f"{parts.turns:,}",
    plan_q=format_estimate(planned["Q"], 1, "+"), plan_qw=format_estimate(planned["Q_W"], 1, "+"), plan_b=format_estimate(planned["B"], 2, "+"),
)  # fmt: skip

# %% [markdown]
# **Answer.** F1 of the replies changes by {glue:text}`parts_f1`.
#
# Distinct-1 within a reply changes by {glue:text}`parts_d1`; the number of words by {glue:text}`parts_words`.
# The planner's strategies differ from the coupled model's by {glue:text}`plan_q` in macro F1, {glue:text}`plan_qw` in weighted F1 and {glue:text}`plan_b` in B, each an expectation over samples ([chapter 08](08_evaluate_systems.ipynb)).
#
# ```{glue:figure} fig_parts
# :name: fig-parts
# :alt: Differences in five text metrics between the decoupled and the coupled system, with main effects of plans and of words and their interaction, each with a 95% interval.
#
# What each part adds, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`, {glue:text}`parts_models`; n = {glue:text}`parts_turns` turns, one reply per cell and turn.
# ```
#
# Beside who plans, two things change with the planner: it has weights of its own, and it doesn't see the strategies of earlier turns, which the coupled model reads in its context.
# [Below](what-the-planner-sees) these two are parted; this is about the systems after SFT, and what DPO adds to either is asked in chapters [09](09_ask_rq1.ipynb) and [11](11_ask_rq3.ipynb).

# %% tags=["hide-cell"]
CELLS = {"vanilla/vanilla": "coupled plans, coupled words", "planner/vanilla": "planner's plans, coupled words", "vanilla/generator": "coupled plans, generator's words", "planner/generator": "planner's plans, generator's words"}
results_table(parts if lost else why.frame(parts.cells, tuple(TEXT), CELLS), f"The four cells, variant paper; profile {book.label}; 95% intervals by dialogue.")

# %% tags=["hide-cell"]
results_table(parts if lost else why.frame(parts.effects, tuple(TEXT), ROWS), f"Their effects, in points of the metric; profile {book.label}; 95% intervals by dialogue.")

# %% [markdown]
# (what-the-planner-sees)=
# ### Is it information, training, or the separation?
#
# **Question.** A decoupled system hides the strategies of earlier turns from its planner, trains twice, and separates planning from wording. Which of the three moves its scores?
#
# **Contrast.** Three more systems: a planner that sees the earlier strategies, a coupled model that doesn't, and a coupled model trained for twice as many epochs.
# Hiding the earlier strategies is then measured twice, in the coupled model and in the planner; so is a planner of its own, with and without them.
#
# **Rule.** A part changes a metric if every difference in which it alone changes has one sign and an interval that excludes 0; the first metrics are macro F1 and B of the strategies.
# Trained twice as long is not twice as many parameters, which the decoupled system has as well.

# %% tags=["hide-input", "remove-output"]
info = book["metrics-information"]
lost = isinstance(info, Missing)
informed = {} if lost else {name: own["paper"] for name, own in info.contrasts.items()}
STRATEGIC, SEEN = {"Q": "macro F1", "Q_W": "weighted F1", "B": "B", "F1": "F1 of replies"}, {
    "decoupled-sft - vanilla-sft": "decoupled, against coupled", "vanilla-no-tags - vanilla-sft": "strategies hidden, coupled", "decoupled-sft - decoupled-tags": "strategies hidden, planner",
    "decoupled-tags - vanilla-sft": "own planner, both see them", "decoupled-sft - vanilla-no-tags": "own planner, neither sees them", "vanilla-long - vanilla-sft": "coupled, trained twice as long",
    "decoupled-sft - vanilla-long": "decoupled, against that",
}  # fmt: skip
source = book.source("paired differences after SFT, 95% intervals by dialogue")
figures.show("fig_information", figures.nothing_here(info.reason, source) if lost else figures.estimates(why.changed({"": informed}, SEEN, STRATEGIC), source))
single = models((book.profile.seed,))
test_turns = f"{next(iter(book['questions'].together.details.values())).turns:,}"
figures.glue_numbers(
    info_models=single, test_turns=test_turns,
    **{f"info_{key.lower()}": "–" if lost else why.carried(informed, key, 2 if key == "B" else 1) for key in ("Q", "B", "F1")},
    **{f"info_all_{key.lower()}": "–" if lost else why.told(informed["decoupled-sft - vanilla-sft"][key], 2 if key == "B" else 1) for key in ("Q", "B", "F1")},
    info_long_q="–" if lost else why.told(informed["decoupled-sft - vanilla-long"]["Q"]),
)  # fmt: skip

# %% [markdown]
# **Answer.** In macro F1, {glue:text}`info_q`; in B, {glue:text}`info_b`.
#
# That is to be held against the whole difference between the decoupled and the coupled system: {glue:text}`info_all_q` in macro F1, {glue:text}`info_all_b` in B.
# In F1 of the replies, {glue:text}`info_f1`; the whole difference: {glue:text}`info_all_f1`.
# Against a coupled model that was trained as long as planner and generator together, macro F1 of the decoupled system changes by {glue:text}`info_long_q`.
# This touches DecoupledESC's answer to RQ2 ([chapter 10](10_ask_rq2.ipynb)), which credits the separation with what the decoupled system gains.
#
# ```{glue:figure} fig_information
# :name: fig-information
# :alt: Differences in macro F1, weighted F1, B and F1 of replies, in seven rows: the decoupled against the coupled system, and what hiding earlier strategies, a separate planner and longer training change.
#
# What changes with one thing changed at a time, with 95% intervals by dialogue; strategy metrics are expectations over samples.
# Profile {glue:text}`profile_name`, {glue:text}`info_models`; n = {glue:text}`test_turns` turns.
# ```

# %% tags=["hide-cell"]
results_table(info if lost else why.frame({name: own["paper"] for name, own in info.systems.items()}, tuple(STRATEGIC)), f"The five systems, variant paper; profile {book.label}; 95% intervals by dialogue.")

# %% [markdown]
# (a-better-plan)=
# ## 2. Does a better plan give a reply closer to the human one?
#
# **Question.** A generator does what its planner says. If the planner were right more often, would replies be closer to what people wrote?
#
# **Contrast.** The same generator at the same turn, under the planner's strategy and under the gold one, each reply sampled once.
# Where the plan is right both have the same strategy and differ by chance alone: a difference there would be a fault of the study.
#
# **Rule.** A better plan gives a better reply if, at the turns where the plan is wrong, F1 under the gold strategy is higher and the interval of the paired difference excludes 0.
# And a plan can only help a reply that follows it: a classifier that reads the strategy from the words, trained on the human replies of the training split, says how often the given strategy is the one that shows.
# It errs on people's replies, too, and that is the first line of the folded table below.

# %% tags=["hide-input", "remove-output"]
given = book["given-strategies"]
lost = isinstance(given, Missing)
CHANGES = {"gold - plan, wrong": "gold instead of a wrong plan", "gold - plan, right": "gold instead of a right plan\n(the same strategy)", "gold - plan, all": "gold instead of any plan", "right - wrong, plan": "turns planned rightly,\nagainst others"}
TEXT = {"F1": "F1", "R-L": "ROUGE-L", "B-1": "BLEU-1", "D-1": "Distinct-1"}
source = book.source("the generator after SFT, 95% intervals by dialogue")
drawn = {} if lost else {title: {name: given.differences[row][key] for row, name in CHANGES.items()} for key, title in TEXT.items()}
figures.show("fig_given", figures.nothing_here(given.reason, source) if lost else figures.estimates(drawn, source))


def shows(whose: str, key: str = "shown") -> str:
    """How often the given strategy shows in the replies, as text."""
    return "–" if lost else format_estimate(given.shown[whose][key])


figures.glue_numbers(
    given_f1="–" if lost else why.better_plan(given.differences, "F1"), given_right="–" if lost else f"{given.right:.0f}", given_models="–" if lost else models(given.seeds),
    given_turns="–" if lost else f"{given.turns:,}", shown_people=shows("people"), shown_gold=shows("generator, gold strategy"), shown_plan=shows("generator, planned strategy"),
    chance_people=shows("people", "by chance"), chance_plan=shows("generator, planned strategy", "by chance"),
    given_all="–" if lost else format_estimate(given.differences["gold - plan, all"]["F1"], 1, "+"), given_null="–" if lost else format_estimate(given.differences["gold - plan, right"]["F1"], 1, "+"),
    given_apart="–" if lost else format_estimate(given.differences["right - wrong, plan"]["F1"], 1, "+"),
)  # fmt: skip

# %% [markdown]
# **Answer.** Where a wrong plan is replaced by the gold strategy, F1 changes by {glue:text}`given_f1`: closer to the human reference, which is all that F1 sees.
#
# A planner that were always right would change it by {glue:text}`given_all` over all turns; where the plan is right already, another sample under the same strategy differs by {glue:text}`given_null`.
# The sampled plan is right at {glue:text}`given_right`% of the turns, and replies there differ in F1 from those at other turns by {glue:text}`given_apart`.
# That compares different turns, some of them easier to plan and to answer, where the answer above compares a turn with itself: it mixes what plans do with which turns are easy.
# The given strategy is the one that the classifier reads in {glue:text}`shown_plan`% of the generator's replies under planned strategies and in {glue:text}`shown_gold`% under gold ones (at random turns: {glue:text}`chance_plan`%); in people's replies it reads the annotated strategy in {glue:text}`shown_people`% (at random turns: {glue:text}`chance_people`%).
#
# ```{glue:figure} fig_given
# :name: fig-given
# :alt: Differences in F1, ROUGE-L, BLEU-1 and Distinct-1 of the generator's replies between gold and planned strategies, at all turns and at those planned wrongly, and between turns planned rightly and wrongly.
#
# What a better plan changes, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`, {glue:text}`given_models`; n = {glue:text}`given_turns` turns.
# ```

# %% tags=["hide-cell"]
results_table(given if lost else why.frame(given.shown, ("shown", "by chance")), f"How often the strategy read from the words is the given one, in per cent; profile {book.label}; 95% intervals by dialogue.")

# %% tags=["hide-cell"]
results_table(given if lost else why.frame(given.replies, (*TEXT, "words")), f"Replies under the planned and the gold strategy, by whether the plan is right; variant paper; profile {book.label}; 95% intervals by dialogue.")

# %% [markdown]
# (several-right-strategies)=
# ## 3. Is the gold strategy the only right one?
#
# **Question.** Gold is what one person did at one moment. Does the order of systems depend on that?
#
# **Contrast.** Accuracy and macro F1 with gold alone, and with three definitions under which more is acceptable; gold always is.
#
# * *same run of messages*: what the supporter used in messages sent one after the other, whose order is nearly free;
# * *similar contexts*: what supporters used at two or more of the ten training turns with the most similar last three messages (cosine of TF-IDF);
# * *same moment of the talk*: what at least an eighth of the training turns at that stage, after that previous strategy, used.
#
# A definition that accepts more forgives chance as well, so planners that know nothing of the turn stand beside the others.
#
# **Rule.** The order changes if two systems (people of similar contexts left out, who are one of the definitions) that are told apart under both definitions, by intervals of their paired difference that exclude 0, stand the other way round.

# %% tags=["hide-input", "remove-output"]
accepted = book["accepted-strategies"]
source = book.source("95% intervals by dialogue")
shown = {name: {system: row["accuracy"] for system, row in own.items()} for name, own in accepted.scores.items()}
figures.show("fig_accepted", figures.estimates({name.replace(" of ", "\nof ").replace(" contexts", "\ncontexts"): own for name, own in shown.items()}, source))
labels = accepted.labels
other = isinstance(labels, Missing) or not labels


def labelled(row: str, key: str = "any", sign: str = "") -> str:
    """A share of error labels as text."""
    return "–" if other or row not in labels else format_estimate(labels[row].get(key), 1, sign)


def positive(row: str, of: str | None = None) -> str:
    """Share of the replies of ``row`` without the three errors; or of these, those labelled ``of``, or as having nothing wrong."""
    if other:
        return "–"
    own = {key: estimate.value for key, estimate in labels[row].items()}
    whole = 100 - sum(own[error] for error in FILTERED)
    return f"{whole:.0f}" if of is None else f"{100 * ((100 - own['any']) if of == 'nothing' else own[of]) / whole:.0f}"


figures.glue_numbers(
    label_nspr=positive("another strategy"), label_nspr_fine=positive("another strategy", "nothing"), label_pspr=positive("gold strategy"), label_pspr_sm=positive("gold strategy", "Strategy Mismatch"),
    accepted_accuracy=why.order_changes(accepted.orders, "accuracy"), accepted_q=why.order_changes(accepted.orders, "Q"), accepted_models=models(accepted.seeds),
    accepted_turns=f"{accepted.turns:,}", sizes=", ".join(f"{size:.1f} ({name})" for name, size in accepted.size.items()),
    near_person=format_estimate(accepted.scores["gold alone"]["person in the nearest context"]["accuracy"]),
    label_gold=labelled("gold strategy"), label_other=labelled("another strategy"), label_gap=labelled("another - gold", sign="+"), label_sm=labelled("another strategy", "Strategy Mismatch"),
    label_sm_gold=labelled("gold strategy", "Strategy Mismatch"),
    label_near=labelled("not in - in: similar contexts", sign="+"), label_moment=labelled("not in - in: same moment of the talk", sign="+"),
    label_n=f"{accepted.labelled.get('another strategy', 0):,}",
)  # fmt: skip

# %% [markdown]
# **Answer.** By accuracy, {glue:text}`accepted_accuracy`; by macro F1, {glue:text}`accepted_q`.
#
# Acceptable are, on average per turn, {glue:text}`sizes` strategies.
# The person in the most similar training context chose the gold strategy of the test turn in {glue:text}`near_person`% of the cases.
#
# ```{glue:figure} fig_accepted
# :name: fig-accepted
# :alt: Accuracy of strategies of about a dozen systems under four definitions of an acceptable strategy, with 95% intervals.
#
# Accuracy of the strategies in per cent under each definition, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`: ours are {glue:text}`accepted_models`, in expectation over samples unless by argmax; Qwen and Llama are DecoupledESC's released SFT models, one sample; n = {glue:text}`accepted_turns` turns.
# ```
#
# **What GPT made of other strategies.**
# DecoupledESC's authors released error labels by GPT for the replies of their two SFT models {cite}`zhang2025decoupledesc`.
# Of the {glue:text}`label_n` replies that are sure to belong to a turn and use another strategy than gold (*Ns* in the paper), {glue:text}`label_other`% have an error label, *Strategy Mismatch* in {glue:text}`label_sm`%; of those with the gold strategy, {glue:text}`label_gold`% and {glue:text}`label_sm_gold`%.
# The difference is {glue:text}`label_gap` points.
# A reply has one label at most, and *positive* are replies without the three errors by which pairs are filtered ([chapter 04](04_mine_preferences.ipynb)).
# So NsPr are {glue:text}`label_nspr`% of the replies with another strategy, and {glue:text}`label_nspr_fine`% of these NsPr have nothing wrong by GPT; of the replies with the gold strategy PsPr are {glue:text}`label_pspr`%, and {glue:text}`label_pspr_sm`% of these PsPr are labelled *Strategy Mismatch* although the strategy is gold.
# Does GPT find fewer errors where the strategy is acceptable? Not here: where the strategy is neither gold nor acceptable, the share with an error label differs by {glue:text}`label_near` points from where it is acceptable by similar contexts, and by {glue:text}`label_moment` points by the same moment of the talk.
# The labels are one model's, and [chapter 03](03_observe_errors.ipynb) says how far they repeat.

# %% tags=["hide-cell"]
results_table(why.order_table(accepted.orders), f"Pairs of systems under each definition; profile {book.label}.")

# %% tags=["hide-cell"]
results_table(why.bias_frame(accepted.scores, "accuracy"), f"Accuracy in per cent; profile {book.label}; 95% intervals by dialogue.")

# %% tags=["hide-cell"]
results_table(why.bias_frame(accepted.scores, "Q"), f"Macro F1, an acceptable prediction counted as if it were gold; profile {book.label}; 95% intervals by dialogue.")

# %% tags=["hide-cell"]
ERRORS = ("any", "Strategy Mismatch", "Lack of Empathy", "Early Emotion Shift", "Template Response", "Emotion Misread")
results_table(labels if isinstance(labels, Missing) else why.frame(labels, ERRORS), "Error labels by GPT in the released replies of Qwen2.5-7B and Llama-3.1-8B after SFT, in per cent; 95% intervals by dialogue.")

# %% [markdown]
# (where-b-comes-from)=
# ## 4. Where does preference bias B come from?
#
# **Question.** B is computed from confusion counts. What in a planner makes it, and what does DPO change in it?
#
# **Contrast.** The strengths behind B are updated by $p_i \leftarrow \sum_j \frac{w_{ij}\,p_j}{p_i + p_j} \Big/ \sum_j \frac{w_{ji}}{p_i + p_j}$ ([chapter 08](08_evaluate_systems.ipynb)).
# All of them 1, and with it B = 0, is a fixed point if and only if $\sum_j w_{ij} = \sum_j w_{ji}$ for each strategy: **B is 0 exactly where each strategy is predicted as often as it is gold**, whether the predictions are right or not.
# So what moves a planner's shares of strategies moves B, and it is taken apart from the planner's scores by what does:
#
# * *decoding*: argmax, or T = 0.7 with top-p, makes frequent strategies more frequent than sampling at T = 1 does;
# * *confidence*: the same by the scores themselves, undone by a temperature that is fitted on other dialogues;
# * *shares*: what is left, strategies that the planner finds more or less probable on average than people do; constants per strategy, fitted on other dialogues {cite}`guo2017calibration`, bring it near 0 by construction.
#
# Beside this sum, *base rates*: what argmax loses when each planner's probabilities are divided by their mean over the turns.
# Confusion counts are expectations over sampling, from the scores of all eight strategies.
#
# **Rule.** A part is a source of B if the interval of the difference that taking it away makes excludes 0.
# A difference between two planners is more than one of sureness and shares if it excludes 0 at a decoding once both are fitted.

# %%
import numpy as np

from decoupled_esc.evaluate.strategy import bias

rates = np.array([0.35, 0.25, 0.15, 0.1, 0.06, 0.04, 0.03, 0.02])
sampled, favourite = 1000 * np.outer(rates, rates), np.zeros((8, 8))
favourite[0] = 1000 * rates  # always the most frequent
never_right = 100 * np.roll(np.eye(8), 1, axis=0)
print(
    f"knowing base rates alone: B = {bias(sampled, 'paper'):.2f} sampled, {bias(favourite, 'paper'):.2f} by argmax"
)
print(f"never right, each strategy as often as gold: B = {bias(never_right, 'paper'):.2f}")
assert bias(sampled, "paper") < 1e-6 and bias(never_right, "paper") == 0

# %% tags=["hide-input", "remove-output"]
found = book["bias-sources"]
NAMES = {"vanilla-sft": "coupled, SFT", "vanilla-dpo": "coupled, DPO", "decoupled-sft": "planner, SFT", "decoupled-dpo": "planner, SP-DPO"}
scores = {NAMES.get(name, name): own for name, own in found.scores.items()}
CONDITIONS = {"argmax": "as scored, argmax", "T = 0.7, top-p": "as scored, T = 0.7, top-p", "T = 1": "as scored, T = 1", "T = 1,\ntemperature fitted": "temperature fitted, T = 1"}
figures.show("fig_bias_sources", figures.estimates(why.panels(scores, CONDITIONS, "B"), book.source("expected confusion counts, 95% intervals by dialogue")))
differences = {"planner": found.contrasts["decoupled-dpo - decoupled-sft"], "coupled model": found.contrasts["vanilla-dpo - vanilla-sft"]}
EVERY = {condition: condition for condition in next(iter(differences.values()))}
drawn = {title: {condition: own[condition]["B"] for condition in EVERY} for title, own in differences.items()}
figures.show("fig_bias_differences", figures.estimates(drawn, book.source("paired differences in B, 95% intervals by dialogue")))


def at(planner: str, condition: str = "as scored, argmax", metric: str = "B") -> str:
    """A score as text; a dash where the planner is not here."""
    return format_estimate(found.scores[planner][condition][metric], 2 if metric == "B" else 1) if planner in found.scores else "–"


others = {
    name: (one.contrasts[why.DPO][why.AS_SCORED]["B"], one.contrasts[why.DPO][why.RECALIBRATED]["B"])
    for name, one in list(everywhere["bias-sources"].items())[1:]
}  # fmt: skip
single = [of["decoupled-dpo-argmax - decoupled-sft-argmax"]["B"] for of in list(book["questions"].by_seed.values())[1:]]
figures.glue_numbers(
    others_b="; ".join(f"on {name} {format_estimate(own, 2, '+')}, and {format_estimate(fitted, 2, '+')} recalibrated" for name, (own, fitted) in others.items()) or "no other backbone was asked",
    other_seeds=", ".join(f"{one:+.2f}" for one in single) or "none",
    bias_models=models(found.seeds), bias_turns=f"{found.turns['decoupled-sft']:,}", sft_argmax=at("decoupled-sft"), sft_parts=why.sources_of(found.parts["decoupled-sft"]),
    sft_base=format_estimate(found.parts["decoupled-sft"]["base rates, argmax"], 2), trans_argmax=at("TransESC"),
    trans_parts=why.sources_of(found.parts["TransESC"]) if "TransESC" in found.parts else "–", words_argmax=at("word planner"), words_parts=why.sources_of(found.parts["word planner"]),
    frequency_argmax=at("gold frequencies"), frequency_one=at("gold frequencies", "as scored, T = 1"),
    dpo_survives=why.survives(found.contrasts["decoupled-dpo - decoupled-sft"]), coupled_survives=why.survives(found.contrasts["vanilla-dpo - vanilla-sft"]),
    sft_fitted_b=at("decoupled-sft", "temperature and shares fitted, argmax"), sft_fitted_q=at("decoupled-sft", "temperature and shares fitted, argmax", "Q"),
    dpo_b=at("decoupled-dpo"), dpo_q=at("decoupled-dpo", metric="Q"),
    dpo_qw_argmax=format_estimate(found.contrasts["decoupled-dpo - decoupled-sft"]["as scored, argmax"]["Q_W"], 1, "+"),
    dpo_qw_paper=format_estimate(found.contrasts["decoupled-dpo - decoupled-sft"]["as scored, T = 0.7, top-p"]["Q_W"], 1, "+"),
    sft_qw_argmax=at("decoupled-sft", metric="Q_W"), sft_qw_one=at("decoupled-sft", "temperature and shares fitted, T = 1", "Q_W"),
    nats_sft="{:.3f} and {:.3f}".format(*found.nats["decoupled-sft"]), nats_dpo="{:.3f} and {:.3f}".format(*found.nats["decoupled-dpo"]),
)  # fmt: skip

# %% [markdown]
# **Answer.** Of the B of {glue:text}`sft_argmax` that the planner after SFT has by argmax, {glue:text}`sft_parts`.
#
# The word planner's {glue:text}`words_argmax`: {glue:text}`words_parts`.
# TransESC's {glue:text}`trans_argmax`, from its published scores: {glue:text}`trans_parts`.
# A planner that knows the gold frequencies and nothing else has {glue:text}`frequency_argmax` by argmax and {glue:text}`frequency_one` sampled at T = 1.
# Dividing out base rates takes {glue:text}`sft_base` from the argmax of the planner after SFT.
# A lower B is no better planner: with temperature and shares fitted, that planner has B near 0 at T = 1 and a weighted F1 of {glue:text}`sft_qw_one`, where by argmax it has {glue:text}`sft_qw_argmax`.
#
# ```{glue:figure} fig_bias_sources
# :name: fig-bias-sources
# :alt: Preference bias B of eight or more planners by argmax, sampled at 0.7 with top-p, sampled at 1, and sampled at 1 after their temperature was fitted.
#
# B of every planner as its sources are taken away from left to right, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`: ours are {glue:text}`bias_models`, n = {glue:text}`bias_turns` turns; TransESC and CauESC on their own test sets. B of samples, which [chapter 14](14_measure_preference_bias.ipynb) shows, has the noise of sampling in it as well.
# ```
#
# **What does DPO change?**
# For the planner, SP-DPO minus SFT: {glue:text}`dpo_survives`.
# That is one training run: by argmax the other seeds have {glue:text}`other_seeds` ([chapter 11](11_ask_rq3.ipynb)).
# By argmax, other backbones: {glue:text}`others_b`.
# For the coupled model: {glue:text}`coupled_survives`.
# A recalibration without any preference, a temperature and a constant per strategy fitted on other dialogues, takes the planner after SFT by argmax from B {glue:text}`sft_argmax` to {glue:text}`sft_fitted_b`, with macro F1 {glue:text}`sft_fitted_q`; SP-DPO's planner has {glue:text}`dpo_b` and {glue:text}`dpo_q`.
# Weighted F1 of the planner changes from SFT to SP-DPO by {glue:text}`dpo_qw_argmax` by argmax and by {glue:text}`dpo_qw_paper` at T = 0.7.
# Its nats per turn, as scored and fitted, are {glue:text}`nats_sft` after SFT and {glue:text}`nats_dpo` after SP-DPO.
#
# ```{glue:figure} fig_bias_differences
# :name: fig-bias-differences
# :alt: Paired differences in B between DPO and SFT, of the planner and of the coupled model, under four treatments of their scores and three decodings.
#
# DPO minus SFT in B, the same turns on both sides, with 95% intervals by dialogue; the fit of the recalibration is not resampled.
# Profile {glue:text}`profile_name`, {glue:text}`bias_models`.
# ```

# %% tags=["hide-cell"]
PARTS = ("decoding, argmax", "decoding, T = 0.7", "confidence", "shares", "base rates, argmax")
results_table(why.bias_parts({NAMES.get(name, name): own for name, own in found.parts.items()}, PARTS), f"What B loses as each source is taken away; argmax: decoding + confidence + shares; profile {book.label}; 95% intervals by dialogue.")

# %% tags=["hide-cell"]
results_table(why.bias_frame(scores, "B"), f"B under every condition; profile {book.label}; 95% intervals by dialogue.")

# %% tags=["hide-cell"]
results_table(why.bias_frame(scores, "Q_W"), f"Weighted F1 under every condition; profile {book.label}; 95% intervals by dialogue.")

# %% [markdown]
# (is-it-the-preference)=
# ## 5. Is it the preference optimisation?
#
# A preference loss does more than prefer: it makes some strategies rarer and replies longer, and it trains further on what people did.
# Three comparisons, for the three methods of the two papers.
#
# ### SP-DPO
#
# **Question.** Does the planner learn anything from SP-DPO that its bias doesn't show?
#
# **Contrast.** The planner after SFT with the B that SP-DPO has, by what needs no training: another temperature, or each strategy's odds multiplied by a power of (its share in what people did / its share in what the planner samples) {cite}`saerens2002adjusting`; both are chosen on validation turns.
# And three trainings in place of SP-DPO: on pairs of which each strategy is chosen as often as it is rejected; on as many pairs at random; on the chosen sides alone, by cross-entropy, in as many steps.
#
# **Rule.** SP-DPO is more than a change of bias if its weighted F1 exceeds that of the re-weighted planner and the interval excludes 0.
# The frequency of strategies in its pairs carries its effect on B if B after the matched pairs exceeds B after as many pairs at random; the rejected side does anything if SP-DPO differs from the chosen sides alone.

# %%
from decoupled_esc.mining import balanced

sides = [("Question", "Others"), ("Question", "Others"), ("Others", "Question"), ("Others", "Others")]
kept = [sides[n] for n in balanced(sides, seed=13)]  # chosen, rejected
chosen, rejected = (sorted(side) for side in zip(*kept, strict=True))
print(kept)
assert chosen == rejected and len(kept) == 3

# %% tags=["hide-input", "remove-output"]
biased, trained, pairs = book["matched-bias"], book["metrics-planner-pairs"], book["pairs-matched"]
lost = isinstance(biased, Missing) or isinstance(trained, Missing) or isinstance(pairs, Missing)
learned = {} if lost else {name: own["paper"] for name, own in trained.contrasts.items()}
PLANNER = {"Q": "macro F1", "Q_W": "weighted F1", "B": "B"}
WAYS = {"SP-DPO - SFT": "SP-DPO", "SFT, another temperature - SFT": "another temperature", "SFT, strategies re-weighted - SFT": "strategies re-weighted"}
KINDS = {"planner-matched - decoupled-sft": "pairs matched for frequency", "planner-fewer - decoupled-sft": "as many pairs at random", "planner-chosen - decoupled-sft": "chosen sides alone"}
source = book.source("planners minus the planner after SFT, 95% intervals by dialogue")
if lost:
    drawn = figures.nothing_here(next(one.reason for one in (biased, trained, pairs) if isinstance(one, Missing)), source)
else:
    untrained, after = why.changed({"": biased.differences}, WAYS, PLANNER), why.changed({"": learned}, KINDS, PLANNER)
    drawn = figures.estimates({title: untrained[title] | after[title] for title in untrained}, source)
figures.show("fig_sp_dpo", drawn)


def sp(name: str, key: str) -> str:
    """A difference of the planner in words."""
    return "–" if lost else why.told((biased.differences if name in biased.differences else learned)[name][key], 2 if key == "B" else 1)


figures.glue_numbers(
    sp_more="–" if lost else why.answer([biased.differences["SP-DPO - SFT, strategies re-weighted"]["Q_W"]], 1), sp_frequency="–" if lost else why.answer([learned["planner-matched - planner-fewer"]["B"]], 1),
    sp_reweighted=sp("SP-DPO - SFT, strategies re-weighted", "Q_W"), sp_temperature=sp("SP-DPO - SFT, another temperature", "Q_W"),
    sp_left=sp("SP-DPO - SFT, strategies re-weighted", "B"), sp_left_temperature=sp("SP-DPO - SFT, another temperature", "B"),
    sp_b=sp("SP-DPO - SFT", "B"), sp_qw=sp("SP-DPO - SFT", "Q_W"), sp_matched=sp("planner-matched - planner-fewer", "B"), sp_matched_q=sp("planner-matched - planner-fewer", "Q"),
    sp_chosen_b=sp("decoupled-dpo - planner-chosen", "B"), sp_chosen_q=sp("decoupled-dpo - planner-chosen", "Q"),
    sp_kept="–" if lost else f"{pairs.pairs['strategy']:,} of {pairs.of['strategy']:,}",
    **{key: "–" if lost else f"{biased.settings[way]:.2f}" for key, way in (("sp_t", "another temperature"), ("sp_power", "strategies re-weighted"))},
)  # fmt: skip

# %% [markdown]
# **Answer.** Is SP-DPO more than a change of bias? {glue:text}`sp_more`: against the re-weighted planner its weighted F1 changes by {glue:text}`sp_reweighted`; against the planner at another temperature, by {glue:text}`sp_temperature`.
#
# On validation turns a temperature of {glue:text}`sp_t` and a power of {glue:text}`sp_power` came nearest to SP-DPO's bias; what is left between them and SP-DPO at the test turns is {glue:text}`sp_left_temperature` and {glue:text}`sp_left` in B.
# Against the planner after SFT as it is, SP-DPO changes B by {glue:text}`sp_b` and weighted F1 by {glue:text}`sp_qw`.
# Does the frequency of strategies in its pairs carry its effect on B? {glue:text}`sp_frequency`: with pairs matched for frequency ({glue:text}`sp_kept` are kept) in place of as many at random, B changes by {glue:text}`sp_matched` and macro F1 by {glue:text}`sp_matched_q`.
# With SP-DPO in place of the chosen sides alone, B changes by {glue:text}`sp_chosen_b` and macro F1 by {glue:text}`sp_chosen_q`; its learning rate was chosen for the preference loss.
# This touches DecoupledESC's answer to RQ3 ([chapter 11](11_ask_rq3.ipynb)), which credits SP-DPO with less bias and better strategies.
#
# ```{glue:figure} fig_sp_dpo
# :name: fig-sp-dpo
# :alt: Differences from the planner after SFT in macro F1, weighted F1 and B, of SP-DPO, of another temperature, of re-weighted strategies, of matched and of random pairs, and of training on the chosen sides alone.
#
# The planner after SFT, changed in six ways at DecoupledESC's decoding, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`, {glue:text}`info_models`; n = {glue:text}`test_turns` turns, in expectation over samples.
# ```

# %% [markdown]
# ### RG-DPO
#
# **Question.** The chosen replies of its pairs are people's, and longer than the rejected ones. Does the generator learn anything but to write more?
#
# **Contrast.** Replies under the gold strategy after RG-DPO, minus those after SFT: whole, and with the longer one of each turn cut to as many words as the shorter one has.
# And trained on pairs in which each length (in steps of three words) is chosen as often as it is rejected, on as many pairs at random, and on the chosen sides alone.
#
# **Rule.** Length carries a difference in F1 if its interval excludes 0 with whole replies and, with cut ones, holds 0 or lies on the other side.

# %% tags=["hide-input", "remove-output"]
cut = book["cut-replies"]
lost = isinstance(cut, Missing) or isinstance(pairs, Missing)
WRITTEN = {"F1": "F1", "B-1": "BLEU-1", "D-1": "Distinct-1", "words": "words"}
METHODS = {"gold-dpo - gold-sft": "RG-DPO", "gold-matched - gold-sft": "pairs matched for length", "gold-fewer - gold-sft": "as many pairs at random", "gold-chosen - gold-sft": "chosen sides alone"}
source = book.source("replies under the gold strategy minus those after SFT, 95% intervals by dialogue")
reason = next((one.reason for one in (cut, pairs) if isinstance(one, Missing)), "")
figures.show("fig_rg_dpo", figures.nothing_here(reason, source) if lost else figures.estimates(why.changed({", whole": cut.whole, ", cut": cut.cut}, METHODS, WRITTEN), source))


def rg(name: str, key: str = "F1", form: str = "whole") -> str:
    """A difference of replies in words."""
    return "–" if lost else why.told(getattr(cut, form)[name][key])


figures.glue_numbers(
    rg_length="–" if lost else why.length_carries(cut.whole["gold-dpo - gold-sft"]["F1"], cut.cut["gold-dpo - gold-sft"]["F1"]),
    rg_all_length="–" if lost else why.length_carries(cut.whole["decoupled-dpo - decoupled-sft"]["F1"], cut.cut["decoupled-dpo - decoupled-sft"]["F1"]),
    rg_f1=rg("gold-dpo - gold-sft"), rg_cut=rg("gold-dpo - gold-sft", form="cut"), rg_words=rg("gold-dpo - gold-sft", "words"),
    rg_b1=rg("gold-dpo - gold-sft", "B-1"), rg_b1_cut=rg("gold-dpo - gold-sft", "B-1", "cut"),
    rg_all=rg("decoupled-dpo - decoupled-sft"), rg_all_cut=rg("decoupled-dpo - decoupled-sft", form="cut"),
    rg_matched_words=rg("gold-matched - gold-fewer", "words"), rg_matched=rg("gold-matched - gold-fewer"), rg_matched_d=rg("gold-matched - gold-fewer", "D-1"),
    rg_chosen_words=rg("gold-dpo - gold-chosen", "words"), rg_chosen=rg("gold-dpo - gold-chosen"),
    rg_kept="–" if lost else f"{pairs.pairs['response']:,} of {pairs.of['response']:,}", rg_sides="–" if lost else "{:.1f} and {:.1f}".format(*pairs.words),
)  # fmt: skip

# %% [markdown]
# **Answer.** Does length carry what RG-DPO changes in F1 under the gold strategy? {glue:text}`rg_length`: {glue:text}`rg_f1` whole, {glue:text}`rg_cut` cut to one length.
#
# Its replies change by {glue:text}`rg_words` words; BLEU-1 by {glue:text}`rg_b1` whole and {glue:text}`rg_b1_cut` cut.
# The same asked of the whole decoupled system, DPO against SFT: {glue:text}`rg_all_length`: {glue:text}`rg_all` whole, {glue:text}`rg_all_cut` cut.
# With pairs matched for length ({glue:text}`rg_kept` are kept; chosen and rejected then have {glue:text}`rg_sides` words on average) in place of as many at random, replies change by {glue:text}`rg_matched_words` words, F1 by {glue:text}`rg_matched` and Distinct-1 by {glue:text}`rg_matched_d`.
# With RG-DPO in place of the chosen sides alone, words change by {glue:text}`rg_chosen_words` and F1 by {glue:text}`rg_chosen`.
# This touches DecoupledESC's Table 3, whose text metrics of Decoupled-DPO are read as better replies, and not its judges' scores, which this study doesn't have.
#
# ```{glue:figure} fig_rg_dpo
# :name: fig-rg-dpo
# :alt: Differences from the generator after SFT in F1, BLEU-1, Distinct-1 and words, of RG-DPO, of pairs matched for length, of as many random pairs and of the chosen sides alone, each for whole and for cut replies.
#
# The generator after SFT, trained on in four ways, with 95% intervals by dialogue; *cut*: both replies of a turn have as many words as the shorter one.
# Profile {glue:text}`profile_name`, {glue:text}`info_models`; n = {glue:text}`test_turns` turns, one reply each.
# ```

# %% [markdown]
# ### CSO
#
# **Question.** Does what the search finds matter, or would other pairs do as well?
#
# **Contrast.** DPO from the same coupled model on the pairs of the search, minus DPO on people's turns preferred to the tree's (*gold*), on random rejected turns, and on as many of DecoupledESC's mined pairs; all of them minus that coupled model, too.
#
# **Rule.** The search carries CSO's effect if macro F1 after its pairs exceeds that after each of the three others, and each interval excludes 0.

# %% tags=["hide-input", "remove-output"]
searched = book["metrics-cso"]
ran = {name: own["paper"] for name, own in searched.together.contrasts.items()}
OTHERS = {"gold": "gold pairs", "random": "random rejected", "mined": "mined pairs"}
ROWS = {f"cso-dpo - cso-{kind}": f"searched minus {title}" for kind, title in OTHERS.items()}
ROWS |= {"cso-dpo - vanilla-sft": "searched pairs, minus SFT"} | {f"cso-{kind} - vanilla-sft": f"{title}, minus SFT" for kind, title in OTHERS.items()}
figures.show("fig_cso_pairs", figures.estimates(why.changed({"": ran}, ROWS, STRATEGIC), book.source("DPO of the coupled model, 95% intervals")))
figures.glue_numbers(
    cso_seeds=", ".join(map(str, searched.seeds)), cso_pairs=f"{book['cso-dpo'].pairs:,}",
    **{f"cso_{kind}_{key.lower()}": why.told(ran[f"cso-dpo - cso-{kind}"][key], decimals) for kind in OTHERS for key, decimals in (("Q", 1), ("B", 2))},
    cso_answer=why.answer([ran[f"cso-dpo - cso-{kind}"]["Q"] for kind in OTHERS], 1),
    cso_alone_q=why.told(ran["cso-dpo - vanilla-sft"]["Q"]), cso_alone_b=why.told(ran["cso-dpo - vanilla-sft"]["B"], 2),
)  # fmt: skip

# %% [markdown]
# **Answer.** Does the search carry CSO's effect? {glue:text}`cso_answer`: with its pairs, macro F1 changes against gold pairs by {glue:text}`cso_gold_q`, against random rejected turns by {glue:text}`cso_random_q`, and against mined pairs by {glue:text}`cso_mined_q`.
#
# B changes against the three by {glue:text}`cso_gold_b`, {glue:text}`cso_random_b` and {glue:text}`cso_mined_b`.
# Against the coupled model that all of them start from, the search's pairs change macro F1 by {glue:text}`cso_alone_q` and B by {glue:text}`cso_alone_b`.
# This touches CSO's Table 4, which has the random pairs alone, and what is read from it: that the search, rather than preference training as such, makes the difference.
#
# ```{glue:figure} fig_cso_pairs
# :name: fig-cso-pairs
# :alt: Differences in macro F1, weighted F1, B and F1 of replies between DPO on searched pairs and on gold, random and mined pairs, and of each from the coupled model after SFT.
#
# What DPO makes of four kinds of pairs, with 95% intervals.
# Profile {glue:text}`profile_name`, models from the coupled model after SFT, {glue:text}`cso_pairs` searched pairs under the first of the seeds {glue:text}`cso_seeds`; n = {glue:text}`test_turns` turns.
# ```

# %% [markdown]
# (how-small-an-effect)=
# ## 6. How small an effect could the papers have seen?
#
# **Question.** Both papers train each system once, sample each reply once, and print no interval. Which of their differences are larger than what chance makes?
#
# **Contrast.** Every difference that DecoupledESC's Tables 3 and 5 and CSO's Tables 2, 4 and 9 to 11 put beside one another, in units of the smallest that such a design finds in four cases of five (two-sided test at 5%):
#
# $$\delta = (z_{0.975} + z_{0.8})\,\sqrt{\sigma^2_\text{runs} / r + \sigma^2_\text{dialogues}}$$
#
# with $r = 1$ training run of each system, $\sigma^2_\text{runs}$ the variance of a difference between training runs, their samples included, and $\sigma^2_\text{dialogues}$ that between test sets.
# Both are measured on our models, with one sampled strategy per turn, and pooled over the differences between systems of the same paper; that they hold for models of seven billion parameters is an assumption.
# Judged columns are held against experts' ratings of the papers' two backbones, as in [the appendix](92_read_judges.ipynb).
# CSO does not say how many turns it tests on; it is given {glue:text}`paper_turns` here, as DecoupledESC has.
#
# **Rule.** A difference counts as *seen* if it is at least as large as $\delta$, the true difference that such a design finds in four cases of five; inside, it may be real all the same.
# An observed difference is beyond chance from $0.7\,\delta$ on ($1.96 / 2.80$), so that this rule is the stricter one.
# The chance of [chapter 09](09_ask_rq1.ipynb) and the landing page is smaller still: it counts test turns alone, and no training runs.

# %% tags=["hide-input", "remove-output"]
asked = book["questions"]
OURS = {
    "DecoupledESC": (asked, ("vanilla-dpo - vanilla-sft", "decoupled-dpo - decoupled-sft", "decoupled-dpo - vanilla-dpo", "decoupled-sft - vanilla-sft"), {"Table 3": "decoupledesc/table-3", "Table 5": "decoupledesc/table-5"}),
    "CSO": (searched, ("cso-dpo - cso-sft", "cso-dpo - cso-random", "cso-sft - vanilla-sft", "cso-lora-dpo - cso-lora-sft"), {f"Table {n}": f"cso/table-{n}" for n in (2, 4, 9, 10, 11)}),
}  # fmt: skip
varied = {paper: power.spreads(found, contrasts) for paper, (found, contrasts, _) in OURS.items()}
judges = book["judged-spread"]
held = {
    paper: {name: power.held_against(table, power.bars(varied[paper], judges)) for name, table in tables.items()}
    for paper, (_, _, tables) in OURS.items()
}
figures.show("fig_power", power.ratios_figure(held, book.source(f"published differences; spreads under {len(asked.seeds)} seed(s)")))
cso_all = [one for own in held["CSO"].values() for one in own]
quarter = [one for table in OURS["CSO"][2].values() for one in power.held_against(table, power.bars(varied["CSO"], judges, power.PAPER_TURNS // 4))]
judged = [one for own in held["DecoupledESC"].values() for one in own if one.column in power.DIMENSIONS]
figures.glue_numbers(
    paper_turns=f"{power.PAPER_TURNS:,}", quarter_turns=power.PAPER_TURNS // 4, power_seeds=len(asked.seeds), power_turns=test_turns,
    power_between="with the variance between training runs in it" if len(asked.seeds) > 1 else "the variance between training runs, and with it a part of δ, left out",
    power_3=power.share_seen(held["DecoupledESC"]["Table 3"], tuple(power.SAMPLED)), power_5=power.share_seen(held["DecoupledESC"]["Table 5"], tuple(power.SAMPLED)),
    power_dpo=power.share_seen([one for one in held["DecoupledESC"]["Table 3"] if one.pair in (FIRST["RQ1"][2], FIRST["RQ3"][2])], tuple(power.SAMPLED)),
    power_rq2=power.share_seen([one for one in held["DecoupledESC"]["Table 3"] if one.pair in (FIRST["RQ2"][2], ("decoupled/sft", "vanilla/sft"))], tuple(power.SAMPLED)),
    power_judged=power.share_seen(judged), power_cso=power.share_seen(cso_all), power_cso_few=power.share_seen(quarter), power_4=power.share_seen(held["CSO"]["Table 4"]),
    **{f"power_{key.lower()}": f"{varied['DecoupledESC'][key].detectable(power.PAPER_TURNS):.2f}" for key in ("F1", "Q", "Q_W", "B")},
)  # fmt: skip

# %% [markdown]
# **Answer.** Of the measured differences of DecoupledESC's Table 3, {glue:text}`power_3` are as large as what its design sees, of those between DPO and SFT {glue:text}`power_dpo`, of those between decoupled and coupled systems after training {glue:text}`power_rq2`, of Table 5's {glue:text}`power_5`.
#
# By {glue:text}`power_seeds` seed(s) of ours, {glue:text}`power_between`, one training run of each system shows a difference of {glue:text}`power_f1` in F1, {glue:text}`power_q` in macro F1, {glue:text}`power_q_w` in weighted F1 and {glue:text}`power_b` in B.
# Of the judged differences of both tables, those from Base among them, {glue:text}`power_judged` are as large as what 100 ratings see.
# Of the differences in CSO's tables {glue:text}`power_cso` are as large as what its design sees, and {glue:text}`power_cso_few` if it tested on {glue:text}`quarter_turns` turns; of its Table 4 {glue:text}`power_4`.
# This touches every sentence of both papers that calls one system better by a number of these tables.
#
# ```{glue:figure} fig_power
# :name: fig-power
# :alt: Two panels of published differences by metric on a logarithmic scale, in units of the smallest difference that can be seen, with a shade below 1.
#
# Published differences, over the smallest that one training run of each system shows in four cases of five: in the shade, what such a design more often misses.
# Spreads from profile {glue:text}`profile_name`, {glue:text}`power_seeds` seed(s), n = {glue:text}`power_turns` turns; numbers below 0.02 are drawn there.
# ```
#
# **How many training runs would the claims need?**
# The table has, per research question, the differences as printed and the number of training runs of each system with which {glue:text}`paper_turns` turns show them in four cases of five.
# Where it names no number, the test set itself is too small for a difference of that size.
# From one seed of ours the chance of samples counts as the test set's, though more runs would average it; from several it counts as the runs'.

# %% tags=["hide-input"]
results_table(power.runs_table(varied["DecoupledESC"]), f"Training runs needed at {power.PAPER_TURNS:,} turns; profile {book.label}, {len(asked.seeds)} seed(s).")

# %% [markdown]
# ## What these studies leave open
#
# Two small models, and metrics of overlap: none of this says how a reply would help a person.
# The controls of studies 1 and 5 were trained under one seed, and with the learning rates of the systems that they stand beside.
# The interval of a recalibrated or re-weighted score leaves out the noise of the fit, and a variance between training runs that comes from a few seeds is itself uncertain: a 95% interval of one from three seeds reaches to forty times its value.
# What would change our mind: the same studies under further seeds, on the backbones of the paper, and with several annotators at the same turns.
