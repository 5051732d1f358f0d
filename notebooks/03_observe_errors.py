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
from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.present import figures, replication
from decoupled_esc.present.replication import written
from decoupled_esc.present.tables import plain
from decoupled_esc.workflow import open_chapter

book = open_chapter(globals())
released = book.result("released").payload
missing = released.get("missing")
figures.say(profile_name=book.label)

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
plain(defined.T, "The five psychological errors, in our words.")

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
plain(shown, "Replies with labels by GPT, released by the authors of DecoupledESC.")

# %% [markdown]
# ## Figure 2: how often each error was seen
#
# *None* means that the judge found nothing wrong.
# Look at how little is left for it.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(missing, book.source("nothing counted"))
    figures.say(none_people="–", none_qwen="–", none_llama="–", lack_people="–", lack_qwen="–", lack_llama="–")
else:
    shares = {
        NAMES[source]: {label: Estimate(**estimate) for label, estimate in found["shares"].items()}
        for source, found in released["errors"].items()
    }
    count = sum(found["replies"] - found["unplaced"] for found in released["errors"].values())
    figure = figures.error_shares(shares, book.source(f"n = {count:,} labels by GPT, 95% intervals", counted=True))
    people, qwen, llama = shares.values()
    figures.say(
        none_people=written(people["None"]), none_qwen=written(qwen["None"]), none_llama=written(llama["None"]),
        lack_people=written(people["Lack of Empathy"]), lack_qwen=written(qwen["Lack of Empathy"]), lack_llama=written(llama["Lack of Empathy"]),
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
equal, kappa = (written(Estimate(**repeats[key]), digits) if repeats[key] else "–" for key, digits in (("equal", 0), ("kappa", 2)))
figures.say(pairs=repeats["pairs"], openings=repeats["openings"], after_blank=repeats["after_blank"], equal=equal, kappa=kappa)
twice = {"pairs": repeats["pairs"], "equal labels (%)": equal, "Cohen's kappa": kappa}
plain(pd.DataFrame({"the same reply, labelled twice": twice}).T, "The judge against itself; 95% intervals over pairs.")

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
    table = plain(pd.DataFrame({"Table 3": {"not attempted": missing}}), "Table 3's Vanilla-SFT rows from the released replies.")
    figures.say(agreeing="–", cells="–", largest="–", largest_row="–", largest_column="–")
else:
    table = replication.released_table_3(evaluations["all"], book.label)
    difference, row, column = replication.largest_difference(table)
    figures.say(
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
                **{key: written(evaluation.systems[source]["paper"][key], 2 if key == "B" else 1) for key in KEYS},
            }
            for source in SHORT
            for how, evaluation in evaluations.items()
        }
    ).T
plain(by_match, f"The released replies by how they were matched, variant paper; 95% intervals; profile {book.label}.")

# %% [markdown]
# Kinds of turns differ so much that no row says whether the matching by order is right.
# A comparison with chance does: the same replies, dealt at random among the turns that follow the same words.

# %% tags=["hide-input"]
if missing:
    against_chance = pd.DataFrame({"difference": {"not attempted": missing}})
    figures.say(by_order="–", order_f1_qwen="–", order_f1_llama="–")
else:
    dealt = Evaluation.from_json(json.dumps(released["order_against_chance"]))
    gained = {source: dealt.contrasts[f"{source} - {source} at random"]["paper"] for source in SHORT}
    against_chance = pd.DataFrame(
        {SHORT[source]: {key: written(difference[key], 2 if key == "B" else 1) for key in KEYS[1:]} for source, difference in gained.items()}
    ).T
    figures.say(
        by_order=f"{dealt.details['qwen-sft'].turns:,}",
        order_f1_qwen=written(gained["qwen-sft"]["F1"]), order_f1_llama=written(gained["llama-sft"]["F1"]),
    )  # fmt: skip
plain(against_chance, "Dealt by order minus dealt at random, on the turns that were matched by order; variant paper; paired 95% intervals.")

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
            f"{SHORT[source]}: {variant}": {key: written(whole.systems[source][variant][key], 2 if key == "B" else 1) for key in KEYS}
            for source in SHORT
            for variant in ("paper", "standard")
        }
    ).T
plain(variants, f"The released replies on all turns, two ways to compute each metric; 95% intervals; profile {book.label}.")

# %% [markdown]
# ## Figure 3 for the paper's models
#
# Which strategies the two models prefer; [chapter 08](08_evaluate_systems.ipynb) draws the same for ours.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(missing, book.source("nothing counted"))
    figures.say(off_qwen="–", off_llama="–")
else:
    gold = whole.gold_distribution
    share = {NAMES[source]: whole.details[source].distribution for source in SHORT}
    off = [50 * np.abs(np.array(own) - np.array(gold)).sum() for own in share.values()]
    figures.say(off_qwen=f"{off[0]:.0f}", off_llama=f"{off[1]:.0f}")
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
# Where no LLM does, a classifier stands in: logistic regression on the words of the reply, the seeker's last words and the strategy, trained in seconds on the labels above.
# It is called *error classifier* here, never by GPT's name, and its first duty is to say how good it is.
#
# "New dialogues": it has learned from none of that dialogue's labels.
# "New writers" is harder: it has learned neither from the dialogue nor from the writer, Qwen, Llama or people, and so has to judge a stranger.
# That is its task with our models.

# %% tags=["hide-input"]
classifier = book.result("error-classifier").payload
unjudged = classifier.get("missing")
if unjudged:
    worth = pd.DataFrame({"error classifier": {"not measured": unjudged}})
    figures.say(kappa_dialogues="–", kappa_writers="–", kappa_failed="–", worst_share="–", worst_label="–", worst_writer="–")
else:
    def scored(found: dict) -> dict:
        return {
            "replies": f"{found['replies']:,}",
            **{label: written(Estimate(**found[key]), digits) for key, label, digits in (("accuracy", "accuracy, %", 1), ("macro_f1", "macro F1", 1), ("kappa", "Cohen's kappa", 2))},
        }

    rows = {f"always {classifier['majority']['label']}": scored(classifier["majority"])}
    for kind, title in (("unseen dialogues", "new dialogues"), ("unseen writers", "new dialogues by new writers")):
        rows[title] = scored(classifier[kind]["all"])
        rows |= {f"{title}: {NAMES[source]}": scored(found) for source, found in classifier[kind].items() if source != "all"}
    worth = pd.DataFrame(rows).T
    gaps = {
        (label, source): share["predicted"] - share["labelled"]
        for source, found in classifier["shares"].items() for label, share in found.items()
    }
    worst_label, worst_writer = max(gaps, key=lambda place: abs(gaps[place]))
    figures.say(
        kappa_dialogues=written(Estimate(**classifier["unseen dialogues"]["all"]["kappa"]), 2),
        kappa_writers=written(Estimate(**classifier["unseen writers"]["all"]["kappa"]), 2),
        kappa_failed=written(Estimate(**classifier["unseen writers"]["failed"]["kappa"]), 2),
        worst_share=f"{abs(gaps[worst_label, worst_writer]):.0f}", worst_label=worst_label.lower(), worst_writer=NAMES[worst_writer],
    )  # fmt: skip
plain(worth, "The error classifier against GPT's labels; 95% intervals by dialogue.")

# %% [markdown]
# On new dialogues it agrees with the labels at a kappa of {glue:text}`kappa_dialogues`, on new writers at {glue:text}`kappa_writers`; for people whose conversations failed it is {glue:text}`kappa_failed`.
# GPT agreed with itself at {glue:text}`kappa` above, on few pairs, which is one sign that the labels can't be learned much better, and no proof.
#
# For a share of errors it does not matter which replies are misjudged, as long as the mistakes cancel.
# They don't quite: for a writer that it does not know, the classifier's shares are off by up to {glue:text}`worst_share` points ({glue:text}`worst_label`, {glue:text}`worst_writer`).
# The next table has them all.

# %% tags=["hide-input"]
if unjudged:
    off_by = pd.DataFrame({"error classifier": {"not measured": unjudged}})
else:
    off_by = pd.DataFrame(
        {
            NAMES[source]: {label: f"{share['predicted']:.0f} ({share['labelled']:.0f})" for label, share in found.items()}
            for source, found in classifier["shares"].items()
        }
    ).T
plain(off_by, "Share of each error in per cent for a writer that the classifier does not know, and, in brackets, by GPT's labels.")

# %% [markdown]
# ## Figure 2 for our models
#
# The share of an error is the mean of its predicted probability over all test turns.
# The same is shown for what people said at these turns.

# %% tags=["hide-input", "remove-output"]
judged = book.result("judged-offline").payload
OURS = {"gold": "people (gold)", "vanilla-sft": "vanilla after SFT", "decoupled-sft": "decoupled after SFT"}
if "missing" in judged:
    figure = figures.nothing_here(judged["missing"], book.source("nothing counted"))
    figures.say(learned="nothing", mismatch_gold="–", mismatch_vanilla="–", template_vanilla="–", template_decoupled="–", split_mismatch="–", split_none="–")
else:
    invented = judged["labels"] == "invented"
    own = {title: {label: Estimate(**e) for label, e in judged["errors"]["systems"][name].items()} for name, title in OURS.items()}
    count = f"n = {judged['turns']:,} turns, 95% intervals, by the error classifier"
    figure = figures.error_shares(own, book.source(count + " trained on INVENTED labels" * invented))
    against = {name: judged["errors"]["contrasts"][f"{name} - gold"] for name in ("vanilla-sft", "decoupled-sft")}
    between = judged["errors"]["contrasts"]["decoupled-sft - vanilla-sft"]
    figures.say(
        learned=f"{judged['learned_from']['error labels']:,} {'invented labels' if invented else 'labels by GPT'}",
        mismatch_gold=written(own[OURS["gold"]]["Strategy Mismatch"]), mismatch_vanilla=written(own[OURS["vanilla-sft"]]["Strategy Mismatch"]),
        template_vanilla=written(Estimate(**against["vanilla-sft"]["Template Response"])),
        template_decoupled=written(Estimate(**against["decoupled-sft"]["Template Response"])),
        split_mismatch=written(Estimate(**between["Strategy Mismatch"])), split_none=written(Estimate(**between["None"])),
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
# Start with the people.
# Their replies were good enough to be the gold of this data set, and still {glue:text}`mismatch_gold`% of them are called a strategy mismatch, against {glue:text}`mismatch_vanilla`% of the vanilla model's.
# Where a judge finds no more fault with a small model than with people, it does not measure what we would like to know.
# GPT said much the same of fine-tuned models and of failed supporters in the figure above; what it would have said of the gold replies was not released.
#
# Differences between systems are on safer ground than shares, because both sides meet the same judge, though it may judge one of them better than the other.
# Template responses are more frequent than with people by {glue:text}`template_vanilla` points (vanilla) and {glue:text}`template_decoupled` (decoupled).
# Between decoupled and vanilla, strategy mismatch differs by {glue:text}`split_mismatch` points and *None* by {glue:text}`split_none`.
#
# ## A scale of empathy
#
# Of the four things that the paper's judge scores, public human labels exist for one.
# {cite:t}`sharma2020empathy` had replies on Reddit rated for three {term}`mechanisms of empathy`, each from 0 to 2: emotional reactions, interpretations, explorations.
# For fluency, professionalism and helpfulness there are none, and the book invents none: without an LLM judge these stay empty.
#
# The scale is logistic regression again, on the words of the reply.
# On posts that it has not seen it does this well:

# %% tags=["hide-input"]
scale = book.result("empathy-scale").payload
unscaled = scale.get("missing")
if unscaled:
    on_posts = pd.DataFrame({"empathy scale": {"not measured": unscaled}})
else:
    on_posts = pd.DataFrame(
        {
            mechanism: {
                "ratings 0 / 1 / 2": " / ".join(f"{count:,}" for count in found["ratings"]),
                "accuracy, %": written(Estimate(**found["accuracy"])),
                "most frequent level, %": f"{found['majority']:.1f}",
                "weighted kappa": written(Estimate(**found["kappa"]), 2),
                "rank correlation": written(Estimate(**found["rank correlation"]), 2),
            }
            for mechanism, found in scale["posts"].items()
        }
    ).T
plain(on_posts, "The empathy scale on posts it has not seen, against people's ratings; 95% intervals by post.")

# %% [markdown]
# That was Reddit.
# ESConv can say whether it holds in a conversation, because its seekers rated their supporters: after the talk for empathy, and during it for the last few messages.
# Beside the scale stands a measure that takes no training, the number of words.
# The conversations of FailedESConv are the low end: there the scale should be lower.

# %% tags=["hide-input"]
MEASURES = ("emotional reactions", "interpretations", "explorations", "all three", "words")
if unscaled:
    on_seekers = pd.DataFrame({"empathy scale": {"not measured": unscaled}})
    figures.say(talks="–", rho_scale="–", rho_words="–", higher_scale="–", higher_words="–", during="–")
else:
    seekers = scale["seekers"]

    def correlation(found: dict, measure: str) -> str:
        return written(Estimate(**found[measure]), 2) if found[measure] else "–"

    on_seekers = pd.DataFrame(
        {
            measure: {
                "mean, ESConv": written(Estimate(**seekers["means"]["esconv"][measure]), 2),
                "mean, FailedESConv": written(Estimate(**seekers["means"]["failed_esconv"][measure]), 2),
                "ESConv higher, %": written(Estimate(**seekers["higher"][measure]), 0),
                "with rating after talk": correlation(seekers["dialogues"]["esconv"], measure),
                "with feedback during talk (FailedESConv)": correlation(seekers["feedback"]["failed_esconv"], measure),
            }
            for measure in MEASURES
        }
    ).T
    figures.say(
        talks=f"{seekers['dialogues']['esconv']['ratings']:,}", during=f"{seekers['feedback']['failed_esconv']['ratings']:,}",
        rho_scale=correlation(seekers["dialogues"]["esconv"], "all three"), rho_words=correlation(seekers["dialogues"]["esconv"], "words"),
        higher_scale=written(Estimate(**seekers["higher"]["all three"]), 0), higher_words=written(Estimate(**seekers["higher"]["words"]), 0),
    )  # fmt: skip
plain(on_seekers, "The empathy scale on people's replies against what their seekers said; Spearman's correlations, 95% intervals by dialogue.")

# %% [markdown]
# Over {glue:text}`talks` conversations, the sum of the three goes with the seeker's rating of empathy at {glue:text}`rho_scale`; the number of words does at {glue:text}`rho_words`.
# A random conversation of ESConv has a higher sum than one of FailedESConv {glue:text}`higher_scale`% of the time, and more words in a message {glue:text}`higher_words`% of the time.
# With the {glue:text}`during` ratings given during failed talks it hardly goes at all.
# So in these conversations the scale knows no more about what the person felt than a word count does.
# We keep it as a description of what a reply contains, and draw no conclusion from it about how anybody was helped.
# Whether an LLM's empathy score does better against the same ratings is a test that the papers did not make, and that [the judges of this book](92_read_judges.ipynb) can be put to.

# %% tags=["hide-input"]
if "missing" in judged:
    levels = pd.DataFrame({"empathy scale": {"not measured": judged["missing"]}})
else:
    levels = pd.DataFrame(
        {
            OURS.get(name, name): {measure: written(Estimate(**found[measure]), 2) for measure in MEASURES[:-1]}
            for name, found in judged["empathy"]["systems"].items()
        }
    ).T
plain(levels, f"Mean levels (0 to 2 each) of the three mechanisms by the empathy scale, profile {book.label}; 95% intervals.")

# %% [markdown]
# People at the same turns are the first row.
# Where a model scores above them, it says more of the words that Reddit's raters called empathic.
