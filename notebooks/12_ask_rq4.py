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

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, judge_tables, questions
from decoupled_esc.present.forest import Forest, ForestRow
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
every = book.everywhere("errors")
offline = every[book.backbone]
classifier = book["error-classifier"]
judged = book["judged"]
seeds = str(book.profile.seed) if isinstance(offline, Missing) else ", ".join(str(seed) for seed in offline.seeds)
figures.glue_numbers(profile_name=book.label, seeds=seeds)

# %% [markdown]
# ## The answer
#
# That Decoupled-DPO makes fewer errors: **{glue:text}`verdict`**.

# %% tags=["hide-input"]
corrected = book["errors-corrected"]
ASKED = "decoupled-dpo - decoupled-sft"
if isinstance(offline, Missing):
    figures.glue_numbers(none="–", verdict="not judged", judges_error="an unknown number of")
else:
    single = ", ".join(f"{of[ASKED]['None']:+.1f}" for of in offline.by_seed.values())
    figures.glue_numbers(
        none=f"{format_estimate(offline.contrasts[ASKED]['None'])} ({single})",
        verdict=judge_tables.answer_errors(offline, classifier, ASKED, "None", 1),
        judges_error="an unknown number of" if isinstance(classifier, Missing) else f"{classifier.difference_errors()['None']:.0f}",
    )  # fmt: skip
printed = {"both backbones": load_tables()["decoupledesc/in-text"].value("figure-7/no-error-gain", "value")}
people = book["judged-offline"]
above = None if isinstance(people, Missing) or isinstance(people.errors, Missing) else people.errors.contrasts.get("decoupled-dpo - gold", {}).get("None")
moved = {} if isinstance(offline, Missing) else offline.contrasts[ASKED]
figures.glue_numbers(
    backbone=book.backbone,
    none_others="; ".join(f"{name} {format_estimate(one.contrasts[ASKED]['None'], sign='+')}" for name, one in list(every.items())[1:] if ASKED in one.contrasts) or "none",
    over_people=format_estimate(above, sign="+"),
    **{f"gap_{name}": format_estimate(moved.get(label), sign="+") for name, label in (("empathy", "Lack of Empathy"), ("template", "Template Response"), ("mismatch", "Strategy Mismatch"))},
)  # fmt: skip
rows = []
if not isinstance(offline, Missing):
    judged_rows = {
        name: [ForestRow("replies without error, as judged", 1, one.contrasts[ASKED]["None"], tuple(of[ASKED]["None"] for of in one.by_seed.values()),
                         judge_tables.answer_errors(one, classifier, ASKED, "None", 1), printed, note="points")]
        for name, one in every.items()
    }  # fmt: skip
    rows += questions.side_by_side(judged_rows)
rates = book["error-rates"]
held = None if isinstance(rates, Missing) else judge_tables.covered(rates)
if not isinstance(corrected, Missing):
    for how, found in (("by the matrix", corrected.matrix), ("rectified", corrected.rectified)):
        one = found[ASKED]["None"]
        sides = "excludes 0" if one.low > 0 or one.high < 0 else "includes 0"
        why = f"such intervals hold {held[1]} of {held[0]} known shares" if held and how == "by the matrix" else ""
        rows += [ForestRow(f"corrected, {how}", 1, one, (), sides, note="points", why=why)]
Forest(tuple(rows), f"Decoupled-DPO minus Decoupled-SFT, share of replies without a psychological error, by the offline judge and corrected for what that judge gets wrong; hollow: the paper's 7 points, which hold decoupling as well; right of the line: fewer errors. Profile {book.label}, seed(s) {seeds}, 95% intervals; the two corrected rows are of {book.backbone} alone.{book.caveats}")

# %% [markdown]
# On {glue:text}`backbone` the share of *None* after Decoupled-DPO differs from that after SFT by {glue:text}`none` points, in brackets under each seed; other backbones: {glue:text}`none_others`.
# Between writers that it did not learn from, the classifier's difference in *None* has been off by up to {glue:text}`judges_error` points ([chapter 03](03_observe_errors.ipynb)), so a difference counts only if its whole interval lies beyond that: the claim is **{glue:text}`verdict`**.
# The two corrections assume different things of the judge, and neither is believed alone: by both together the claim is **{glue:text}`corrected_verdict`** (below).
#
# *None* is what is left of five errors that move in different directions: Lack of Empathy {glue:text}`gap_empathy`, Template Response {glue:text}`gap_template`, Strategy Mismatch {glue:text}`gap_mismatch`.
# The first two are errors by which the generator's pairs were mined.
# And by the same judge Decoupled-DPO's replies have {glue:text}`over_people` points more of *None* than people's at the same turns ([chapter 18](18_compare_published_systems.ipynb)): a judge that prefers such replies to people's does not measure what we would like to know.
#
# What would change our mind: labels of our own replies, by a judge unrelated to the one that mined the pairs, best of all by human raters.
#
# ## DecoupledESC Figure 7 for our models
#
# Shares are means over the seed(s) {glue:text}`seeds`, with 95% intervals for other dialogues and other training runs ([chapter 09](09_ask_rq1.ipynb) says how).
# The judge here is the offline error classifier, unless the profile has an LLM judge, whose shares stand in [chapter 08](what-a-judge-says).
# It learned from GPT's labels of other systems' replies, and what it says of a reply comes from the fold of dialogues that holds no label at that reply's dialogue.
# It is not the judge that mined the pairs: where no LLM did, that one learned from the labels of FailedESConv alone ([chapter 03](03_observe_errors.ipynb)).

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
own = {title: name for name, title in OURS.items()}
results_table(judge_tables.offline_errors(offline, classifier, own), f"Share of each error by the offline error classifier, in per cent; seed(s) {seeds}, profile {book.label}; 95% intervals. Last row: by how much the share of a writer that it did not learn from has been off, at most.")

# %% [markdown]
# The intervals know other dialogues and other trainings, and nothing of the judge.
# The last row does: the classifier was made to judge writers that it had not learned from, as it never learned from our systems, and its shares were compared with those by GPT's labels.
# The same follows for differences between two systems.

# %% tags=["hide-input"]
contrasts = {"decoupled: DPO minus SFT": "decoupled-dpo - decoupled-sft", "vanilla: DPO minus SFT": "vanilla-dpo - vanilla-sft", "DPO: decoupled minus vanilla": "decoupled-dpo - vanilla-dpo"}
differences = judge_tables.offline_errors(offline, classifier, contrasts)
results_table(differences, f"Differences in the share of each error, in points, by the offline error classifier; seed(s) {seeds}, profile {book.label}; 95% intervals. Last row: by how much a difference between writers that it did not learn from has been off, at most.")

# %% [markdown]
# Where the profile has no LLM judge, the one that mined the pairs is a relative of this one: they share their kind and GPT's labels of FailedESConv, so the generator was trained against much of what this judge calls an error.
# Where its shares fall, DPO has done what it was told; whether the replies are better is another question, which no relative of the teacher can answer.
#
# ## Corrected for the judge's error
#
# A share by a judge can be corrected for what the judge was measured to get wrong, and its interval can hold how uncertain that is.
# For each error, let $m_1$ and $m_0$ be the mean probability that the classifier gives to labelled replies that have the error and to those that have not, and $\bar f$ the mean over a system's replies.
# Two corrections assume different things:
#
# * by the **matrix**, $(\bar f - m_0) / (m_1 - m_0)$: our replies with an error look to the judge like labelled replies with it, and the others like the others {cite}`rogan1978estimating`;
# * **rectified**, $\bar f$ plus the mean difference between labels and probabilities: the judge is off by the same amount, give or take how much this amount differs between the three labelled writers, after prediction-powered inference {cite}`angelopoulos2023prediction`.
#
# For a judge that answers yes or no, the denominator $m_1 - m_0$ is sensitivity + specificity $-$ 1.
# Where it is small, little is divided by little.

# %%
share, m1, m0 = 0.30, 0.50, 0.25
judged_share = share * m1 + (1 - share) * m0
assert abs((judged_share - m0) / (m1 - m0) - share) < 1e-12
print(
    f"a true share of {share:.0%} is judged as {judged_share:.1%}, and a judged difference of 1 point stands for {1 / (m1 - m0):.0f}"
)

# %% tags=["hide-input"]
known_share, in_interval, no_share = ("–",) * 3 if isinstance(rates, Missing) else judge_tables.covered(rates)
off_judged, off_matrix = ("–",) * 2 if isinstance(rates, Missing) else (f"{points:.0f}" for points in judge_tables.off_by(rates))
if isinstance(corrected, Missing):
    figures.glue_numbers(none_matrix="–", none_rectified="–", impossible_shares="–")
else:
    figures.glue_numbers(
        none_matrix=format_estimate(corrected.matrix[ASKED]["None"]), none_rectified=format_estimate(corrected.rectified[ASKED]["None"]),
        impossible_shares=sum(judge_tables.impossible(cell) for name in OURS for cell in corrected.matrix[name].values()),
    )  # fmt: skip
figures.glue_numbers(
    known_shares=known_share, in_interval=in_interval, no_share=no_share, our_shares=6 * len(OURS), off_judged=off_judged, off_matrix=off_matrix,
    corrected_verdict=judge_tables.corrected_answer(offline, corrected, ASKED, "None", 1),
)  # fmt: skip
results_table(judge_tables.corrected_errors(offline, corrected, own), f"Share of each error as judged and corrected, in per cent; seed(s) {seeds}, profile {book.label}; 95% intervals over dialogues of systems and of labels, and over training runs. 'nothing': nothing can be said, as the judge can't tell the error or the interval holds all that is possible; 'impossible': the whole interval is below 0 or above 100.")

# %% tags=["hide-input"]
results_table(judge_tables.corrected_errors(offline, corrected, contrasts), f"Differences in the share of each error as judged and corrected, in points; seed(s) {seeds}, profile {book.label}; 95% intervals as above.")

# %% [markdown]
# Do these corrections work where the truth is known?
# The labelled writers tell: each is corrected by the labels of the others alone, as if it were new.

# %% tags=["hide-input"]
results_table(judge_tables.known_shares(rates, {"failed": "people (FailedESConv)", "qwen-sft": "Qwen2.5-7B, SFT", "llama-sft": "Llama-3.1-8B, SFT"}), "Shares of each error among the labelled writers, in per cent: by GPT's labels, as judged by a classifier that has not learned from the writer, and corrected by the labels of the other two; 95% intervals by dialogue.")

# %% [markdown]
# Of {glue:text}`known_shares` known shares the matrix's interval holds {glue:text}`in_interval`, and {glue:text}`no_share` come out as impossible; of {glue:text}`our_shares` shares of our systems in the first of these tables, {glue:text}`impossible_shares` are impossible.
# In the mean a known share is off by {glue:text}`off_judged` points as judged and by {glue:text}`off_matrix` corrected by the matrix; the rectified intervals are so wide because three writers say little of how much the judge's bias differs between writers.
# An impossible share refutes the assumption: the judge does not err on these replies as on the labelled ones.
#
# So a corrected difference is believed only where both corrections agree.
# With three labelled writers that test can hardly decide anything: a rectified difference would have to be as large as half its interval, some tens of points.
# The difference in *None* between Decoupled-DPO and SFT is {glue:text}`none_matrix` points by the matrix and {glue:text}`none_rectified` rectified: **{glue:text}`corrected_verdict`**.
#
# ## The 27% and the +7 of the text
#
# The paper's text says that 27% of Decoupled-DPO's replies have no error, and that this is 7 points more than its two models after SFT have on average.
# These are the models of its Figure 2, which are coupled, so that its 7 points hold decoupling as well as DPO.
# Our share and our difference from Vanilla-SFT stand beside them, by another judge than the paper's, so that neither is compared; the answer above asks what DPO alone does.

# %% tags=["hide-input"]
from decoupled_esc.present import replication

replication.in_text(offline, judged, book.label)

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-12-read
#
# What does the last row of the first table say that the intervals above it do not?
# Who labelled the replies that it rests on?
# ````
#
# ````{solution} ex-12-read
# :class: dropdown
#
# By how much the share of a writer that the classifier did not learn from has been off, at most.
# It was measured where GPT's labels exist: on replies of the authors' two models and of people in FailedESConv, and not on ours.
# ````
#
# ````{exercise} compute
# :label: ex-12-compute
#
# A judge finds 60 of 100 faulty replies, and calls 20 of 100 sound ones faulty.
# One system has 30% faulty replies, the other 20%.
# What difference does the judge report?
#
# ```python
# found, false_alarms = 0.6, 0.2
# before, after = 0.30, 0.20  # true shares of faulty replies
# ```
# ````
#
# ````{solution} ex-12-compute
# :class: dropdown
#
# ```python
# def reported(share, false_alarms=false_alarms):
#     return share * found + (1 - share) * false_alarms
#
#
# print(f"{reported(before):.2f} and {reported(after):.2f}: {reported(before) - reported(after):.2f}")  # 0.32 and 0.28: 0.04
# assert abs((found - false_alarms) * (before - after) - (reported(before) - reported(after))) < 1e-12
# ```
#
# 0.04 in place of 0.10: a difference shrinks by the factor $0.6 - 0.2$, as long as the judge makes the same mistakes with both.
# ````
#
# ````{exercise} change
# :label: ex-12-change
#
# Now let both systems be equally good, 20% each, and give the judge 25 false alarms in 100 with the second, because it writes in a way that the judge did not learn.
# What does it report?
# ````
#
# ````{solution} ex-12-change
# :class: dropdown
#
# ```python
# print(f"{reported(0.2):.2f} and {reported(0.2, false_alarms=0.25):.2f}")  # 0.28 and 0.32
# ```
#
# A difference of 4 points where there is none.
# More replies make its interval narrower and leave it where it is; that is why the answer above also asks for a difference beyond the judge's own error.
# ````
