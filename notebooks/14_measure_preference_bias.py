# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14 What preference bias measures
#
# Neither paper has this chapter.
# Both compare systems by {term}`preference bias B` {cite}`kang2024bias`, each system decoded in one way.
# B is 0 exactly where each strategy is predicted as often as it is gold, whether the predictions are right or not ([chapter 19](19_ask_why.ipynb) shows why; the equation is {eq}`eq-bias` of [chapter 08](08_evaluate_systems.ipynb)): it punishes favourites, not errors.
# Here every planner is followed from argmax to high temperatures, to see which conclusions survive when decoding is held fixed.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about strategies that experimental models chose; nothing here is counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.evaluate import Estimate
from decoupled_esc.present import figures, sliders
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.tables import format_estimate, results_table
from decoupled_esc.experiments.run import open_book

book = open_book(globals())
curves = book["decoding"]
measured = book["metrics"]
NAMES = {"gold frequencies": "gold frequencies", "word planner": "word planner", "decoupled-sft": "planner after SFT", "decoupled-dpo": "planner after SP-DPO"}
METRICS = {"B": "preference bias B", "Q_W": "weighted F1", "Q": "macro F1"}
figures.glue_numbers(profile_name=book.label, turns=f"{curves.turns:,}")

# %% [markdown]
# ## The answer
#
# The planner after SFT has B {glue:text}`sft_argmax` by argmax, {glue:text}`sft_sampled` sampled at T = 0.7 and {glue:text}`sft_one` at T = 1.
# The word planner, which is no language model, goes from {glue:text}`words_argmax` to {glue:text}`words_sampled` at T = 0.7 and {glue:text}`words_one` at T = 1.
# (B of samples; without the noise of sampling it is lower, [chapter 19](19_ask_why.ipynb).)
# All eight SFT and DPO rows of the paper's Table 3 lie between {glue:text}`paper_low` and {glue:text}`paper_high`: hold that span against what decoding alone does to one set of weights.

# %% tags=["hide-input"]
def at(name: str, temperature: float, key: str) -> Estimate:
    return next(getattr(row, key) for row in curves.sweeps[name] if row.temperature == temperature)


table = load_tables()["decoupledesc/table-3"]
printed = [table.value(row.key, "B") for row in table.rows if row.key.split("/")[2] in ("sft", "dpo")]
spans = {name: (at(name, 0.0, "B"), at(name, 0.7, "B"), at(name, 1.0, "B")) for name in NAMES}
by_argmax = [of["decoupled-dpo-argmax - decoupled-sft-argmax"]["B"] for of in list(book["questions"].by_seed.values())[1:]]
figures.glue_numbers(
    other_argmax=", ".join(f"{one:+.2f}" for one in by_argmax) or "nothing: there are none",
    sft_argmax=format_estimate(spans["decoupled-sft"][0], 2), sft_sampled=format_estimate(spans["decoupled-sft"][1], 2), sft_one=format_estimate(spans["decoupled-sft"][2], 2),
    words_argmax=format_estimate(spans["word planner"][0], 2), words_sampled=format_estimate(spans["word planner"][1], 2), words_one=format_estimate(spans["word planner"][2], 2),
    paper_low=f"{min(printed):.2f}", paper_high=f"{max(printed):.2f}",
)  # fmt: skip

# %% [markdown]
# ## What can these metrics tell apart?
#
# From knowing nothing of the turn to eight billion parameters, all sampled at T = 0.7: weighted F1 is {glue:text}`ladder_nothing` for the gold frequencies, {glue:text}`ladder_words` for a regression on words, {glue:text}`ladder_own`, and {glue:text}`ladder_qwen` and {glue:text}`ladder_llama` in the paper for those on Qwen2.5-7B and Llama-3.1-8B.
# Look at how much of the way the regression has gone.

# %% tags=["hide-input", "remove-output"]
every = book.everywhere("questions")
ladder = {title: {NAMES[name]: at(name, 0.7, key) for name in ("gold frequencies", "word planner")} for key, title in METRICS.items()}
for backbone, asked in every.items():
    for key, title in METRICS.items():
        ladder[title][f"planner after SFT,\n{backbone}"] = asked.together.systems["decoupled-sft"]["paper"][key]
LARGE = {"qwen2.5-7b": "planner after SFT,\nQwen2.5-7B", "llama3.1-8b": "planner after SFT,\nLlama-3.1-8B"}
of_paper = {title: {system: {of: table.value(f"{of}/decoupled/sft", key)} for of, system in LARGE.items()} for key, title in METRICS.items()}
figures.glue_numbers(
    caveats=book.caveats,
    ladder_nothing=format_estimate(at("gold frequencies", 0.7, "Q_W")), ladder_words=format_estimate(at("word planner", 0.7, "Q_W")),
    ladder_own="; ".join(f"{format_estimate(one.together.systems['decoupled-sft']['paper']['Q_W'])} for the planner after SFT of {name}" for name, one in every.items()),
    **{name: f"{table.value(f'{of}/decoupled/sft', 'Q_W'):.1f}" for name, of in (("ladder_qwen", "qwen2.5-7b"), ("ladder_llama", "llama3.1-8b"))},
)  # fmt: skip
figures.show("fig_ladder", figures.estimates(ladder, book.source(f"n = {curves.turns:,} turns, 95% intervals"), of_paper))

# %% [markdown]
# ```{glue:figure} fig_ladder
# :name: fig-ladder
# :alt: Preference bias, weighted F1 and macro F1 of planners sampled at T = 0.7, from gold frequencies over a regression on words and our planner to those of the paper on Qwen and Llama, which are hollow marks.
#
# Planners from none to eight billion parameters, sampled at T = 0.7; hollow marks: DecoupledESC Table 3, printed without intervals.
# Profile {glue:text}`profile_name`, n = {glue:text}`turns` turns, 95% intervals.{glue:text}`caveats` The first two rows are means of ten samples, the others expectations over 50 samples of each training run.
# ```
#
# ## One decoding step
#
# A planner gives eight probabilities, and two numbers decide what is made of them.
# A temperature $T$ takes each to the power $1/T$ and scales them to 1; top-p then leaves out the least probable, as long as what is left out sums to at most $1 - p$.

# %%
import numpy as np
from decoupled_esc.evaluate import decoding

# The most probable first
given = np.array([0.30, 0.20, 0.14, 0.12, 0.10, 0.07, 0.05, 0.02])
cooler = given ** (1 / 0.7)
cooler /= cooler.sum()
tail = cooler[::-1].cumsum()[::-1]  # what would be left out, from each strategy on
kept = np.where(tail > 1 - 0.95, cooler, 0.0)
kept /= kept.sum()
assert np.allclose(kept, decoding.probabilities(np.log(given)[None], 0.7, 0.95)[0])
print("T = 1.0, top-p 1.00:", *(f"{100 * p:.0f}%" for p in given))
print("T = 0.7, top-p 0.95:", *(f"{100 * p:.0f}%" for p in kept))

# %% [markdown]
# ## Planners over temperatures
#
# The *word planner* is logistic regression on words; the *gold frequencies* know nothing of the turn.
# The dotted line is the temperature of DecoupledESC.
# Every temperature above argmax is sampled with the top-p of the profile, and every score is an expectation: the mean over ten samples.

# %% tags=["hide-input", "remove-output"]
sweeps = {title: curves.sweeps[name] for name, title in NAMES.items()}
figures.show("fig_temperatures", figures.over_temperatures(sweeps, METRICS, book.source(f"n = {curves.turns:,} turns, 95% intervals, means of ten samples")))

# %% [markdown]
# ```{glue:figure} fig_temperatures
# :name: fig-temperatures
# :alt: Preference bias, weighted F1 and macro F1 of four planners over the temperature at which strategies are sampled, from argmax to 2.
#
# Planners over temperatures, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`; n = {glue:text}`turns` turns; temperature and top-p act on whole names of strategies.
# ```

# %% [markdown]
# ## A favourite, more and more
#
# Take the choices of the fine-tuned planner, and let it say *Question* instead of its own choice, more and more often.
# Watch which moves first, B or the weighted F1; at the end all strength is on one strategy, and B is at its bound.

# %% tags=["hide-input"]
counts = measured.details["decoupled-sft"].confusion
sliders.bias_of_a_favourite(counts, taxonomy.STRATEGIES.index("Question"), book.source(f"n = {curves.turns:,} turns"))

# %% [markdown]
# ## Which conclusions survive?
#
# At one temperature, is the planner after SP-DPO less biased than the one after SFT, and does it choose better?

# %% tags=["hide-input"]
both = pd.DataFrame(
    {
        f"{row.temperature or 'argmax'}": {
            f"{METRICS[key]}, {title}": format_estimate(at(name, row.temperature, key), 2 if key == "B" else 1)
            for key in METRICS for name, title in (("decoupled-sft", "SFT"), ("decoupled-dpo", "SP-DPO"))
        }
        for row in curves.sweeps["decoupled-sft"]
    }
)
bias = {t: (at("decoupled-sft", t, "B"), at("decoupled-dpo", t, "B")) for t in (0.0, 0.7, 1.0)}
figures.glue_numbers(**{f"b_{name}_{kind}": format_estimate(bias[t][k], 2) for t, name in ((0.0, "argmax"), (0.7, "sampled"), (1.0, "one")) for k, kind in enumerate(("sft", "dpo"))})
def signs(key: str) -> str:
    """At which temperatures SP-DPO's planner has more, and at which less."""
    told = {"lower": [], "higher": []}
    for row in curves.sweeps["decoupled-sft"]:
        gap = at("decoupled-dpo", row.temperature, key).value - at("decoupled-sft", row.temperature, key).value
        told["higher" if gap > 0 else "lower"].append(f"{row.temperature:g}" if row.temperature else "argmax")
    return "; ".join(f"{word} at {', '.join(some)}" for word, some in told.items() if some)


figures.glue_numbers(**{f"signs_{key.lower()}": signs(key) for key in METRICS})
results_table(both, f"The planner before and after SP-DPO, at every temperature; profile {book.label}; 95% intervals.")

# %% [markdown]
# Read it column by column, SFT against SP-DPO; overlapping intervals say little about a difference, and [chapter 11](11_ask_rq3.ipynb) has the paired ones.
# From SFT to SP-DPO, B goes from {glue:text}`b_argmax_sft` to {glue:text}`b_argmax_dpo` by argmax, from {glue:text}`b_sampled_sft` to {glue:text}`b_sampled_dpo` at T = 0.7, and from {glue:text}`b_one_sft` to {glue:text}`b_one_dpo` at T = 1.
# Over the temperatures of the table, with the weights of the first seed, SP-DPO minus SFT has these signs: B {glue:text}`signs_b`; weighted F1 {glue:text}`signs_q_w`; macro F1 {glue:text}`signs_q`.
# Where a sign changes, a conclusion drawn at one temperature is a conclusion about that temperature: training has then done, in part, what a higher temperature does.
# [Chapter 11](11_ask_rq3.ipynb) has the other seeds; by argmax B changes under them by {glue:text}`other_argmax`.
#
# ## Are the probabilities worth sampling from?
#
# Sampling is fair if a strategy that is given 30% is gold in 30% of the cases.

# %% tags=["hide-input", "remove-output"]
calibrations = {title: curves.calibration[name] for name, title in NAMES.items() if name != "gold frequencies"}
figures.show("fig_reliability", figures.reliability(calibrations, book.source(f"n = {curves.turns:,} turns")))

# %% [markdown]
# ```{glue:figure} fig_reliability
# :name: fig-reliability
# :alt: How often the most probable strategy is gold over the probability that three planners gave it, with a diagonal for perfect calibration.
#
# Calibration of the planners at temperature 1, of the most probable strategy.
# Profile {glue:text}`profile_name`; without intervals.
# ```

# %% tags=["hide-input"]
calibrated = pd.DataFrame(
    {
        title: {
            "nats per turn": f"{curves.calibration[name].nats:.3f}",
            "accuracy of argmax, %": f"{curves.calibration[name].accuracy:.1f}",
            "calibration error, points": f"{curves.calibration[name].error:.1f}",
        }
        for name, title in NAMES.items()
    }
).T
results_table(calibrated, f"Calibration on the test turns, profile {book.label}; without intervals.")

# %% [markdown]
# Nats per turn are what a planner is worth as a predictor, whatever it is decoded with: lower is better.
# Preference optimisation is not trained to lower them.
#
# ## How much of a difference is the seed?
#
# The same difference, trained and sampled under other seeds.

# %% tags=["hide-input"]
own, *others = book["questions"].by_seed.values()
compared = {name: measured.contrasts[name]["paper"] for name in own if name in measured.contrasts}
noise = {
    name: {
        f"{METRICS[key]}, {title}": text
        for key in ("B", "Q") for title, text in (
            ("first seed", format_estimate(first[key], 2)), ("other seeds", ", ".join(f"{one[name][key]:.2f}" for one in others) or "–"),
        )
    }
    for name, first in compared.items()
}  # fmt: skip
inside = [first[key].low <= one[name][key] <= first[key].high for one in others for name, first in compared.items() for key in ("B", "Q")]
figures.glue_numbers(outside_seeds=f"{inside.count(False)} of {len(inside)}")
results_table(pd.DataFrame(noise).T, f"The same differences under other seeds, profile {book.label}; first seed: chapters 02 to 08, with 95% intervals by dialogue.")

# %% [markdown]
# Outside the first one's interval lie {glue:text}`outside_seeds` differences of other seeds.
#
# An interval by dialogue says how the same models would do in other conversations, and knows nothing of this.
# One trained pair of models is one sample, whatever its seed was: compare methods over several training runs, as chapters [09](09_ask_rq1.ipynb) to [11](11_ask_rq3.ipynb) do.
#
# ## What to report instead
#
# A B with its decoding, or the whole curve; beside it the B that chance makes on as many turns ([chapter 08](08_evaluate_systems.ipynb)); and nats, which no decoding can change.

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-14-read
#
# Of what this chapter reports of a planner, what can decoding change, and what can it not?
# ````
#
# ````{solution} ex-14-read
# :class: dropdown
#
# B, weighted and macro F1 depend on the temperature and on top-p.
# Nats per turn and calibration are those of the probabilities themselves.
# ````
#
# ````{exercise} compute
# :label: ex-14-compute
#
# A planner gives *Question* 30% and each other strategy 10%, whatever is gold, and gold strategies are equally frequent.
# What is the expected B at T = 0.25, 0.7, 1 and 2?
# With these counts the strengths are proportional to the probabilities.
#
# ```python
# import numpy as np
# from decoupled_esc.evaluate import decoding, strategy
#
# given = np.array([0.3, *[0.1] * 7])
# ```
# ````
#
# ````{solution} ex-14-compute
# :class: dropdown
#
# ```python
# for temperature in (0.25, 0.7, 1.0, 2.0):
#     p = given ** (1 / temperature) / (given ** (1 / temperature)).sum()
#     assert np.allclose(p, decoding.probabilities(np.log(given)[None], temperature, 1.0)[0])
#     w = np.outer(1000 * p, np.ones(8))  # expected turns by prediction and gold strategy
#     assert np.isclose(strategy.bias(w, "standard"), (8 * p).std(), atol=1e-6)
#     print(f"T = {temperature}: B = {(8 * p).std():.2f}")
# # T = 0.25: B = 2.41
# # T = 0.7: B = 0.85
# # T = 1.0: B = 0.53
# # T = 2.0: B = 0.22
# ```
#
# One planner, and a B from close to the bound $\sqrt{7} \approx 2.65$ down to less than a tenth of it.
# ````
#
# ````{exercise} change
# :label: ex-14-change
#
# In the cell of one decoding step above, set top-p to 0.5.
# How many strategies are left, and what would that do to B?
# ````
#
# ````{solution} ex-14-change
# :class: dropdown
#
# ```python
# import numpy as np
# from decoupled_esc.evaluate import decoding
#
# given = np.array([0.30, 0.20, 0.14, 0.12, 0.10, 0.07, 0.05, 0.02])
# for top_p in (0.95, 0.5):
#     kept = decoding.probabilities(np.log(given)[None], 0.7, top_p)[0]
#     print(f"top-p {top_p}: {(kept > 0).sum()} strategies, the first {100 * kept[0]:.0f}%")
# # top-p 0.95: 6 strategies, the first 40%
# # top-p 0.5: 2 strategies, the first 64%
# ```
#
# Those that are left out are never said, and the first is said more often: B rises, as at a lower temperature.
# A B has to be reported with both.
# ````
