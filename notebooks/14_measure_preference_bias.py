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
# Here every planner is followed from argmax to high temperatures, to see which conclusions survive when decoding is held fixed.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about strategies that experimental models chose; nothing here is counselling.
# :::

# %% tags=["parameters", "hide-input"]
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
figures.glue_numbers(profile_name=book.label, turns=f"{curves.turns:,}")

# %% [markdown]
# ## A favourite, more and more
#
# Take the choices of the fine-tuned planner, and let it say *Question* instead of its own choice, more and more often.
# Watch which moves first, B or the weighted F1; at the end all strength is on one strategy, and B is at its bound.

# %% tags=["hide-input"]
counts = measured.details["decoupled-sft"].confusion
sliders.bias_of_a_favourite(counts, taxonomy.STRATEGIES.index("Question"), book.source(f"n = {curves.turns:,} turns"))

# %% [markdown]
# ## Over temperatures
#
# The *word planner* is logistic regression on words; the *gold frequencies* know nothing of the turn.
# The dotted line is the temperature of DecoupledESC.
# Every temperature above argmax is sampled with the top-p of the profile, and every score is an expectation: the mean over ten samples.

# %% tags=["hide-input", "remove-output"]
METRICS = {"B": "preference bias B", "Q_W": "weighted F1", "Q": "macro F1"}
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

# %% tags=["hide-input"]
def at(name: str, temperature: float, key: str) -> Estimate:
    return next(getattr(row, key) for row in curves.sweeps[name] if row.temperature == temperature)


table = load_tables()["decoupledesc/table-3"]
printed = [table.value(row.key, "B") for row in table.rows if row.key.split("/")[2] in ("sft", "dpo")]
spans = {name: (at(name, 0.0, "B"), at(name, 0.7, "B"), at(name, 1.0, "B")) for name in NAMES}
figures.glue_numbers(
    sft_argmax=format_estimate(spans["decoupled-sft"][0], 2), sft_sampled=format_estimate(spans["decoupled-sft"][1], 2), sft_one=format_estimate(spans["decoupled-sft"][2], 2),
    words_argmax=format_estimate(spans["word planner"][0], 2), words_sampled=format_estimate(spans["word planner"][1], 2),
    paper_low=f"{min(printed):.2f}", paper_high=f"{max(printed):.2f}",
)  # fmt: skip

# %% [markdown]
# The planner after SFT has B {glue:text}`sft_argmax` by argmax, {glue:text}`sft_sampled` sampled at T = 0.7 and {glue:text}`sft_one` at T = 1.
# The word planner, which is no language model, goes from {glue:text}`words_argmax` to {glue:text}`words_sampled`.
# All eight SFT and DPO rows of the paper's Table 3 lie between {glue:text}`paper_low` and {glue:text}`paper_high`: hold that span against what decoding alone does to one set of weights.
#
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
results_table(both, f"The planner before and after SP-DPO, at every temperature; profile {book.label}; 95% intervals.")

# %% [markdown]
# Read it row by row: where the two intervals overlap at a temperature, that temperature does not tell the two apart by this table alone ([chapter 11](11_ask_rq3.ipynb) has the paired differences).
# From SFT to SP-DPO, B goes from {glue:text}`b_argmax_sft` to {glue:text}`b_argmax_dpo` by argmax, from {glue:text}`b_sampled_sft` to {glue:text}`b_sampled_dpo` at T = 0.7, and from {glue:text}`b_one_sft` to {glue:text}`b_one_dpo` at T = 1.
# If the sign of a difference changes from one temperature to another, a conclusion drawn at one is a conclusion about that temperature: training has then done, in part, what a higher temperature does.
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
# ## How much of a difference is rounding, and how much the seed?
#
# Processors add floating-point numbers in different orders, and a training run of thousands of steps turns last digits into another model.
# Where the models of the first seed were trained again on another machine, with the same code, data and seed, the same differences can be taken twice; where the profile has further seeds, once more under each.

# %% tags=["hide-input"]
own, *others = book["questions"].by_seed.values()
again = [own] if book.stored("replies-vanilla-dpo").provenance.get("remade") else []
compared = {name: measured.contrasts[name]["paper"] for name in own if name in measured.contrasts}
noise = {
    name: {
        f"{METRICS[key]}, {title}": text
        for key in ("B", "Q") for title, text in (
            ("first", format_estimate(first[key], 2)), ("again", ", ".join(f"{one[name][key]:.2f}" for one in again) or "–"),
            ("other seeds", ", ".join(f"{one[name][key]:.2f}" for one in others) or "–"),
        )
    }
    for name, first in compared.items()
}  # fmt: skip


def outside(runs: list) -> str:
    """How many of the differences under ``runs`` lie outside the first one's interval."""
    taken = [first[key].low <= one[name][key] <= first[key].high for one in runs for name, first in compared.items() for key in ("B", "Q")]
    return f"{taken.count(False)} of {len(taken)}"


figures.glue_numbers(outside_again=outside(again), outside_seeds=outside(others))
results_table(pd.DataFrame(noise).T, f"The same differences from another training run, profile {book.label}; first: chapters 02 to 08, with 95% intervals by dialogue.")

# %% [markdown]
# Outside the first one's interval lie {glue:text}`outside_again` differences of the same seed on another machine, and {glue:text}`outside_seeds` of other seeds.
#
# An interval by dialogue says how the same models would do in other conversations, and knows nothing of this.
# One trained pair of models is one sample, whatever its seed was: compare methods over several training runs, as chapters [09](09_ask_rq1.ipynb) to [11](11_ask_rq3.ipynb) do.
#
# ## What to report instead
#
# A B with its decoding, or the whole curve; beside it the B that chance makes on as many turns ([chapter 08](08_evaluate_systems.ipynb)); and nats, which no decoding can change.
