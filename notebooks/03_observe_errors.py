# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Observations: the errors that fine-tuning leaves
#
# DecoupledESC starts from an observation: models fine-tuned on good conversations still make the mistakes that are found in failed ones, among people {cite}`zhang2025decoupledesc`; it calls them {term}`psychological errors <psychological error>`.
# The authors released the replies of their two SFT models and what GPT said of each.
# This chapter regenerates Figure 2 from them, asks how far such labels can be trusted, and scores the released replies again to see whether Table 3 comes out.
# Then it builds two judges that need no server, says what they are worth, and turns them on our own models.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models, and about conversations that went badly.
# They describe texts, and no person; none of this is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import json

import numpy as np
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, replication
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
released = book["released"]
missing = released.get("missing")
figures.glue_numbers(profile_name=book.label)

# %% [markdown]
# ## Five ways to fail
#
# The names are the paper's (appendix A.2); definitions and examples are ours.
# In each example somebody has just written: *"I lost my job on Friday. I haven't told anyone, and I can't sleep."*

# %% tags=["hide-input"]
EXAMPLES = {
    "Strategy Mismatch": "Have you tried searching on several job boards at once?",
    "Lack of Empathy": "OK. Which kind of job was it?",
    "Early Emotion Shift": "Cheer up, in a month you will laugh about this!",
    "Template Response": "I'm here for you. Things will get better.",
    "Emotion Misread": "You sound really angry with your boss.",
}
defined = pd.DataFrame(
    {error.name: {"what goes wrong": error.meaning, "example (invented)": EXAMPLES[error.name]} for error in taxonomy.PSYCHOLOGICAL_ERRORS}
)
results_table(defined.T, "The five psychological errors, in our words.")

# %% [markdown]
# Several of them could be said of one reply, and the judge had to choose one.
# A question about the job is a mismatch here and might be welcome three turns later: four of the five can't be seen without the conversation.
#
# ## What was released
#
# The files hold a reply, the seeker's last words and a label, and no ids.
# A model's reply is matched to the turn with the same words of the seeker, and a person's reply to the turn with the same reply.
# Where several turns share the words, such as the blank message that stands between two utterances of a supporter, the rows are dealt so that neighbours stay neighbours.
# Nothing of the text is committed here, because the files carry no licence; without them this chapter says so.

# %% tags=["hide-input"]
SHORT = {"qwen-sft": "Qwen", "llama-sft": "Llama"}
NAMES = {"failed": "people in FailedESConv", "qwen-sft": "Qwen2.5-7B after SFT", "llama-sft": "Llama-3.1-8B after SFT"}
if missing:
    shown = pd.DataFrame({"released outputs": {"not here": missing}})
else:
    shown = pd.DataFrame(
        {
            NAMES[source]: {"replies": f"{found['replies']:,}", "dialogues": found["dialogues"], "label is none of the six": found["unplaced"]}
            for source, found in released["errors"].items()
        }
    ).T
results_table(shown, "Replies with labels by GPT, released by the authors of DecoupledESC.")

# %% [markdown]
# ## Figure 2: how often each error was seen
#
# *None* means that the judge found nothing wrong.
# Look at how little is left for it.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(missing, book.source("nothing counted"))
    figures.glue_numbers(none_people="–", none_qwen="–", none_llama="–", lack_people="–", lack_qwen="–", lack_llama="–")
else:
    shares = {
        NAMES[source]: {label: estimate for label, estimate in found["shares"].items()}
        for source, found in released["errors"].items()
    }
    count = sum(found["replies"] - found["unplaced"] for found in released["errors"].values())
    figure = figures.shares(shares, book.source(f"n = {count:,} labels by GPT, 95% intervals", counted=True))
    people, qwen, llama = shares.values()
    figures.glue_numbers(
        none_people=format_estimate(people["None"]), none_qwen=format_estimate(qwen["None"]), none_llama=format_estimate(llama["None"]),
        lack_people=format_estimate(people["Lack of Empathy"]), lack_qwen=format_estimate(qwen["Lack of Empathy"]), lack_llama=format_estimate(llama["Lack of Empathy"]),
    )  # fmt: skip
figures.show("fig_errors", figure)

# %% [markdown]
# ```{glue:figure} fig_errors
# :name: fig-errors
# :alt: Bars of the share of replies with each of five psychological errors and with none, for people in FailedESConv and for two fine-tuned models.
#
# Figure 2 of {cite:t}`zhang2025decoupledesc`, from the labels that the authors released, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`; the labels are GPT's and the replies are the authors' models'; nothing here was computed by a model of ours.
# ```
#
# No error was seen in {glue:text}`none_people`% of the replies by people whose conversations had failed, in {glue:text}`none_qwen`% of Qwen's and {glue:text}`none_llama`% of Llama's.
# Lack of empathy is {glue:text}`lack_people`% among these people, {glue:text}`lack_qwen`% with Qwen and {glue:text}`lack_llama`% with Llama.
# So the models differ less from failed supporters than one would hope, which is what the paper's Observation 1 says.
# They show less lack of empathy and misread fewer feelings; mismatched strategies and template responses are not rarer with them.
#
# ## How far can the labels be trusted?
#
# Some replies occur twice: the same words, after the same words of the seeker, under the same strategy.
# Going by what the files hold, the judge was asked the same question twice.

# %% tags=["hide-input"]
repeats = {"pairs": 0, "openings": 0, "after_blank": 0, "equal": None, "kappa": None} if missing else released["repeats"]
equal, kappa = (format_estimate(repeats[key], digits) if repeats[key] else "–" for key, digits in (("equal", 0), ("kappa", 2)))
figures.glue_numbers(pairs=repeats["pairs"], openings=repeats["openings"], after_blank=repeats["after_blank"], equal=equal, kappa=kappa)
twice = {"pairs": repeats["pairs"], "equal labels (%)": equal, "Cohen's kappa": kappa}
results_table(pd.DataFrame({"the same reply, labelled twice": twice}).T, "The judge against itself; 95% intervals over pairs.")

# %% [markdown]
# In {glue:text}`pairs` such pairs the labels are equal in {glue:text}`equal`%; {term}`Cohen's kappa` is {glue:text}`kappa`.
# Few pairs make wide intervals, and these are no fair sample: {glue:text}`openings` of them answer the first message of a dialogue, and {glue:text}`after_blank` the blank message between two utterances of a supporter, behind which the conversations differ.
# We don't know whether the judge was shown more than the files hold.
# If it was not, any number that is built on single labels, the filter of the preference pairs among them, is less certain than it looks.
#
# ## Table 3 again, from the authors' own replies
#
# Two rows of Table 3 belong to the released replies.
# Scoring them with our code tests that code, and our reading of how the table was made.

# %% tags=["hide-input"]
evaluations = {} if missing else {how: Evaluation.from_json(json.dumps(found)) for how, found in released["scores"].items()}
if missing:
    table = results_table(pd.DataFrame({"Table 3": {"not attempted": missing}}), "Table 3's Vanilla-SFT rows from the released replies.")
    figures.glue_numbers(agreeing="–", cells="–", largest="–", largest_row="–", largest_column="–")
else:
    table = replication.released_table_3(evaluations["all"], book.label)
    difference, row, column = replication.largest_difference(table)
    figures.glue_numbers(
        agreeing=table.counts().get("within the interval", 0), cells=sum(cell.measured is not None for cell in table.cells()),
        largest=f"{difference:.2f}", largest_row=row.split("/")[0], largest_column=column,
    )  # fmt: skip
table

# %% [markdown]
# Of {glue:text}`cells` cells, {glue:text}`agreeing` lie within the interval.
# The largest difference is {glue:text}`largest` ({glue:text}`largest_column`, {glue:text}`largest_row`).
# The paper fixed no seed and drew one reply a turn, so these need not be the very replies that it scored.
#
# Some replies were matched by the seeker's words alone, and the others by their order too.
# The others are of two kinds: after a blank message a reply is a supporter's second in a row, and the rest are openings and short exchanges, in which everybody says much the same.

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L", "Q_W", "Q", "B")
if missing:
    by_match = pd.DataFrame({"scores": {"not attempted": missing}})
else:
    by_match = pd.DataFrame(
        {
            f"{SHORT[source]}: {how}": {
                "turns": f"{evaluation.details[source].turns:,}",
                **{key: format_estimate(evaluation.systems[source]["paper"][key], 2 if key == "B" else 1) for key in KEYS},
            }
            for source in SHORT
            for how, evaluation in evaluations.items()
        }
    ).T
results_table(by_match, f"The released replies by how they were matched, variant paper; 95% intervals; profile {book.label}.")

# %% [markdown]
# Kinds of turns differ so much that no row says whether the matching by order is right.
# A comparison with chance does: the same replies, dealt at random among the turns that follow the same words.

# %% tags=["hide-input"]
if missing:
    against_chance = pd.DataFrame({"difference": {"not attempted": missing}})
    figures.glue_numbers(by_order="–", order_f1_qwen="–", order_f1_llama="–")
else:
    dealt = released["order_against_chance"]
    gained = {source: dealt.contrasts[f"{source} - {source} at random"]["paper"] for source in SHORT}
    against_chance = pd.DataFrame(
        {SHORT[source]: {key: format_estimate(difference[key], 2 if key == "B" else 1) for key in KEYS[1:]} for source, difference in gained.items()}
    ).T
    figures.glue_numbers(
        by_order=f"{dealt.details['qwen-sft'].turns:,}",
        order_f1_qwen=format_estimate(gained["qwen-sft"]["F1"]), order_f1_llama=format_estimate(gained["llama-sft"]["F1"]),
    )  # fmt: skip
results_table(against_chance, "Dealt by order minus dealt at random, on the turns that were matched by order; variant paper; paired 95% intervals.")

# %% [markdown]
# On these {glue:text}`by_order` turns, order gains {glue:text}`order_f1_qwen` points of F1 with Qwen and {glue:text}`order_f1_llama` with Llama over one random dealing.
# Where an interval contains zero, this test can't tell order from chance; and since the turns are less than a quarter of all, the scores on all turns depend little on it.
#
# The textbook variants of the same metrics are in the table below; which variant is meant matters more than which model.

# %% tags=["hide-input"]
if missing:
    variants = pd.DataFrame({"scores": {"not attempted": missing}})
else:
    whole = evaluations["all"]
    variants = pd.DataFrame(
        {
            f"{SHORT[source]}: {variant}": {key: format_estimate(whole.systems[source][variant][key], 2 if key == "B" else 1) for key in KEYS}
            for source in SHORT
            for variant in ("paper", "standard")
        }
    ).T
results_table(variants, f"The released replies on all turns, two ways to compute each metric; 95% intervals; profile {book.label}.")

# %% [markdown]
# ## Figure 3 for the paper's models
#
# Which strategies the two models prefer; [chapter 08](08_evaluate_systems.ipynb) draws the same for ours.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(missing, book.source("nothing counted"))
    figures.glue_numbers(off_qwen="–", off_llama="–")
else:
    gold = whole.gold_distribution
    share = {NAMES[source]: whole.details[source].distribution for source in SHORT}
    off = [50 * np.abs(np.array(own) - np.array(gold)).sum() for own in share.values()]
    figures.glue_numbers(off_qwen=f"{off[0]:.0f}", off_llama=f"{off[1]:.0f}")
    source = book.source(f"n = {whole.details['qwen-sft'].turns:,} turns", counted=True)
    figure = figures.strategy_distributions(share, gold, source)
figures.show("fig_released_strategies", figure)

# %% [markdown]
# ```{glue:figure} fig_released_strategies
# :name: fig-released-strategies
# :alt: Two bar charts of the share of eight strategies, for the authors' fine-tuned Qwen and Llama models, with diamonds for the gold shares.
#
# Strategy distribution of the authors' two SFT models against the gold annotation, after Figure 3 of {cite:t}`zhang2025decoupledesc`.
# Profile {glue:text}`profile_name`; shares without intervals.
# ```
#
# {glue:text}`off_qwen`% of Qwen's turns and {glue:text}`off_llama`% of Llama's would have to change strategy to match people's shares.
# Both ask questions and give suggestions more often than people do.
#
# ## A judge without a server
#
# To see the same picture for our own models, somebody has to judge their replies.
# Where no LLM does, a classifier stands in: logistic regression on the words of the reply, the seeker's last words, the strategy, and a few counts such as the length and the turn, trained in seconds on the labels above.
# It is called *error classifier* here, never by GPT's name, and its first duty is to say how good it is.
#
# "New dialogues": it has learned from none of that dialogue's labels.
# For replies that were dealt to their turns by order the dialogue is a guess, so they are also shown apart.
# "New writers" is harder: it has learned neither from the dialogue nor from the writer, Qwen, Llama or people, and so has to judge a stranger.
# That is its task with our models.

# %% tags=["hide-input"]
classifier = book["error-classifier"]
unjudged = classifier.get("missing")
if unjudged:
    worth = pd.DataFrame({"error classifier": {"not measured": unjudged}})
else:
    def scored(found: dict) -> dict:
        return {
            "replies": f"{found['replies']:,}",
            **{label: format_estimate(found[key], digits) for key, label, digits in (("accuracy", "accuracy, %", 1), ("macro_f1", "macro F1", 1), ("kappa", "Cohen's kappa", 2))},
        }

    PARTS = {**NAMES, "sure": "turn known by the words", "guessed": "turn guessed by order"}
    rows = {f"always {classifier['majority']['label']}": scored(classifier["majority"])}
    for kind, title in (("unseen dialogues", "new dialogues"), ("unseen writers", "new dialogues by new writers")):
        rows[title] = scored(classifier[kind]["all"])
        rows |= {f"{title}: {PARTS[part]}": scored(found) for part, found in classifier[kind].items() if part != "all"}
    worth = pd.DataFrame(rows).T
results_table(worth, "The error classifier against GPT's labels; 95% intervals by dialogue.")

# %% tags=["hide-input"]
if unjudged:
    figures.glue_numbers(worth=f"Its worth is not measured here: {unjudged}.")
else:
    k = {(kind, part): format_estimate(found["kappa"], 2) for kind in ("unseen dialogues", "unseen writers") for part, found in classifier[kind].items()}
    figures.glue_numbers(
        worth=f"On new dialogues it agrees with the labels at a kappa of {k['unseen dialogues', 'all']}, where the turn is known by the words at "
        f"{k['unseen dialogues', 'sure']}; on new writers at {k['unseen writers', 'all']}, and {k['unseen writers', 'failed']} for people whose conversations failed."
    )

# %% [markdown]
# {glue:text}`worth`
# We had aimed at 0.45 on new dialogues and did not get there; fine-tuning the small language model of this book for the task did worse than the words in a trial, which is not repeated here.
#
# For a share of errors it does not matter which replies are misjudged, as long as the mistakes cancel.
# The next table says how far they do: the share that the classifier predicts for a writer that it does not know, and the share by GPT's labels.

# %% tags=["hide-input"]
if unjudged:
    off_by = pd.DataFrame({"error classifier": {"not measured": unjudged}})
    figures.glue_numbers(gaps="How far its shares are off is not measured here.")
else:
    off_by = pd.DataFrame(
        {
            name: {label: f"{share['predicted']:.0f} ({share['labelled']:.0f})" for label, share in found.items()}
            for name, found in {
                **{NAMES[source]: found for source, found in classifier["shares"].items()},
                **{" minus ".join(NAMES[source] for source in pair.split(" - ")): found for pair, found in classifier["differences"].items()},
            }.items()
        }
    ).T
    gap = {
        kind: max(abs(share[by] - share["labelled"]) for found in classifier[kind].values() for share in found.values())
        for kind, by in (("shares", "predicted"), ("differences", "known"))
    }
    strange = max(abs(share["predicted"] - share["labelled"]) for found in classifier["differences"].values() for share in found.values())
    figures.glue_numbers(
        gaps=f"A share is off by up to {gap['shares']:.0f} points, and a difference between two writers that it does not know by up to {strange:.0f}; "
        f"even between writers that it has learned from, a difference is off by up to {gap['differences']:.0f}."
    )
results_table(off_by, "Predicted share of each error in per cent for writers that the classifier does not know, and, in brackets, the share by GPT's labels.")

# %% [markdown]
# {glue:text}`gaps`
# The intervals below come from drawing dialogues and know nothing of this: a difference has to be larger than both.
#
# ## Figure 2 for our models
#
# The share of an error is the mean of its predicted probability over all test turns.
# The same is shown for what people said at these turns.

# %% tags=["hide-input", "remove-output"]
judged = book["judged-offline"]
by_classifier = judged["errors"]
OURS = {"gold": "people (gold)", "vanilla-sft": "vanilla after SFT", "decoupled-sft": "decoupled after SFT"}
if "missing" in by_classifier:
    figure = figures.nothing_here(by_classifier["missing"], book.source("nothing counted"))
    figures.glue_numbers(learned="nothing", own_errors="Nothing was judged here.")
else:
    own = {title: {label: e for label, e in by_classifier["systems"][name].items()} for name, title in OURS.items()}
    count = f"n = {judged['turns']:,} turns, 95% intervals, by the error classifier ({by_classifier['learned_from']})"
    figure = figures.shares(own, book.source(count))
    against = {name: format_estimate(by_classifier["contrasts"][f"{name} - gold"]["Template Response"]) for name in ("vanilla-sft", "decoupled-sft")}
    between = by_classifier["contrasts"]["decoupled-sft - vanilla-sft"]
    mismatch = {name: format_estimate(own[OURS[name]]["Strategy Mismatch"]) for name in ("gold", "vanilla-sft")}
    figures.glue_numbers(
        learned=by_classifier["learned_from"],
        own_errors=f"Of people's gold replies, {mismatch['gold']}% are called a strategy mismatch; of the vanilla model's, {mismatch['vanilla-sft']}%. "
        f"Template responses differ from people's by {against['vanilla-sft']} points (vanilla) and {against['decoupled-sft']} (decoupled). "
        f"Between decoupled and vanilla, strategy mismatch differs by {format_estimate(between['Strategy Mismatch'])} points and None by {format_estimate(between['None'])}.",
    )  # fmt: skip
figures.show("fig_own_errors", figure)

# %% [markdown]
# ```{glue:figure} fig_own_errors
# :name: fig-own-errors
# :alt: Bars of the share of replies with each of five psychological errors and with none, for people's gold replies and for the two fine-tuned systems of this profile, as judged by the offline error classifier.
#
# After Figure 2 of {cite:t}`zhang2025decoupledesc`, for this profile's systems and for people, by the error classifier, which learned from {glue:text}`learned`; 95% intervals by dialogue.
# Profile {glue:text}`profile_name`.  Not to be set beside the figure above: another judge made it.
# ```
#
# {glue:text}`own_errors`
#
# Start with the people: their replies were good enough to be the gold of this data set.
# Where a judge finds as much fault with them as with a small model, it does not measure what we would like to know.
# What GPT would have said of the gold replies was not released.
# And hold every difference against the classifier's own error above: of those between our two systems nothing can be said with this judge.
#
# ## A scale of empathy
#
# Of the four things that the paper's judge scores, public human labels exist for one.
# {cite:t}`sharma2020empathy` had replies on Reddit rated for three {term}`mechanisms of empathy`, each from 0 to 2: emotional reactions, interpretations, explorations.
# For fluency, professionalism and helpfulness there are none, and the book invents none: without an LLM judge these stay empty.
#
# The scale is logistic regression again, on the words of the reply.
# Here is how it does on posts that it has not seen.

# %% tags=["hide-input"]
scale = book["empathy-scale"]
unscaled = scale.get("missing")
if unscaled:
    on_posts = pd.DataFrame({"empathy scale": {"not measured": unscaled}})
else:
    on_posts = pd.DataFrame(
        {
            mechanism: {
                "ratings 0 / 1 / 2": " / ".join(f"{count:,}" for count in found["ratings"]),
                "accuracy, %": format_estimate(found["accuracy"]),
                "most frequent level, %": f"{found['majority']:.1f}",
                "weighted kappa": format_estimate(found["kappa"], 2),
                "rank correlation": format_estimate(found["rank correlation"], 2),
            }
            for mechanism, found in scale["posts"].items()
        }
    ).T
results_table(on_posts, "The empathy scale on posts it has not seen, against people's ratings; 95% intervals by post.")

# %% [markdown]
# That was Reddit.
# Seekers can say whether it holds in a conversation, because they rated their supporters: after the talk for empathy, and during it for the last few messages (in the raw form of the corpora only, which we have of FailedESConv).
# Beside the scale stands a measure that takes no training, the number of words.
# The conversations of FailedESConv are the low end: there the scale should be lower.

# %% tags=["hide-input"]
MEASURES = ("emotional reactions", "interpretations", "explorations", "all three", "words")
if unscaled:
    on_seekers = pd.DataFrame({"empathy scale": {"not measured": unscaled}})
    figures.glue_numbers(seekers=f"What it is worth in conversations is not measured here: {unscaled}.")
else:
    seekers = scale["seekers"]

    def correlation(kind: str, corpus: str, measure: str) -> str:
        found = seekers[kind][corpus][measure]
        return format_estimate(found, 2) if found else "–"

    on_seekers = pd.DataFrame(
        {
            measure: {
                "mean, ESConv": format_estimate(seekers["means"]["esconv"][measure], 2),
                "mean, FailedESConv": format_estimate(seekers["means"]["failed_esconv"][measure], 2),
                "ESConv higher, %": format_estimate(seekers["higher"][measure], 0),
                "rating after the talk, ESConv": correlation("dialogues", "esconv", measure),
                "the same, FailedESConv": correlation("dialogues", "failed_esconv", measure),
                "ratings during the talk, FailedESConv": correlation("feedback", "failed_esconv", measure),
            }
            for measure in MEASURES
        }
    ).T
    given = {name: np.array(seekers["dialogues"][name]["ratings"]) for name in ("esconv", "failed_esconv")}
    high = {name: f"{100 * ratings[2:].sum() / ratings.sum():.0f}" for name, ratings in given.items()}
    figures.glue_numbers(
        seekers=f"Over {given['esconv'].sum():,} conversations of ESConv, the sum of the three goes with the seeker's rating at {correlation('dialogues', 'esconv', 'all three')}, "
        f"and the number of words at {correlation('dialogues', 'esconv', 'words')}. Little could be seen there: {high['esconv']}% of the ratings are 3 or more. "
        f"In FailedESConv, with {given['failed_esconv'].sum()} ratings of which {high['failed_esconv']}% are that high, it is {correlation('dialogues', 'failed_esconv', 'all three')} and "
        f"{correlation('dialogues', 'failed_esconv', 'words')}, and with the {sum(seekers['feedback']['failed_esconv']['ratings']):,} ratings during these talks "
        f"{correlation('feedback', 'failed_esconv', 'all three')} and {correlation('feedback', 'failed_esconv', 'words')}. "
        f"A random conversation of ESConv has a higher sum than one of FailedESConv {format_estimate(seekers['higher']['all three'], 0)}% of the time, "
        f"and longer messages {format_estimate(seekers['higher']['words'], 0)}% of the time."
    )  # fmt: skip
results_table(on_seekers, "The empathy scale on people's replies against what their seekers said; Spearman's correlations, 95% intervals by dialogue.")

# %% [markdown]
# {glue:text}`seekers`
#
# Length separates the two corpora so well that it may have been a reason to set a conversation aside, so it is no fair rival there.
# Where the scale's intervals touch zero or lie no higher than those of a word count, it has not been shown to know what the person felt.
# We keep it as a description of what a reply contains, and draw no conclusion from it about how anybody was helped.
# Whether an LLM's empathy score does better against the same ratings was not tested in the papers, nor here.

# %% tags=["hide-input"]
by_scale = judged["empathy"]
if "missing" in by_scale:
    levels = pd.DataFrame({"empathy scale": {"not measured": by_scale["missing"]}})
else:
    levels = pd.DataFrame(
        {
            OURS.get(name, name): {measure: format_estimate(found[measure], 2) for measure in MEASURES[:-1]}
            for name, found in by_scale["systems"].items()
        }
    ).T
source = by_scale.get("learned_from", "nothing")
results_table(levels, f"Mean levels (0 to 2 each) of the three mechanisms by the empathy scale, which learned from {source}; profile {book.label}; 95% intervals.")

# %% [markdown]
# People at the same turns are the first row.
# A model above them says more of the words that the scale has learned to call empathic.
