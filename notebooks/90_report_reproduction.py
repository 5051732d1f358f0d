# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reproduction report
#
# Every number of every table of both papers, and of their texts, {cite}`zhang2025decoupledesc,zhao2025cso` has a status here.
# The numbers stand in one data file of this repository; the chapters' measurements are joined to them, and a cell that nothing was measured for carries the reason.
# If a single cell had no status, this page could not be built.
#
# What to look at: how much is still *not attempted* or *not comparable*, and what says *opposite*: {glue:text}`opposite` cells (measurements), {glue:text}`opposite_where`.
# The papers print one number in several places, and one measurement of ours stands beside the numbers of several backbones: so measurements are counted as well as cells.

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import backbones, cso_tables, explorers, figures, replication
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.tables import results_table

book = open_book(globals())
data = book["data"]
evaluation = book["metrics"]
judged = book["judged"]
name = book.label
measured = [
    replication.table_1(data, name),
    replication.table_6(data, name),
    replication.table_3(evaluation, judged, "vanilla", name),
    replication.table_3(evaluation, judged, "decoupled", name),
    replication.table_3(evaluation, judged, "vanilla", name, methods=("direct-refine", "self-refine", "emotion-cot")),
    replication.table_1_mined(book["pairs"], name),
    replication.table_2(judged, name),
    replication.table_4(judged, name),
    replication.table_5(book["metrics-controlled"], name),
    replication.in_text(book["errors"], judged, name),
    replication.text_claims(book["strategy-shares"], name),
]
cso = book["metrics-cso"].together
tuning = cso_tables.tuning_of(book.profile)
adapters = "lora" if "lora" in cso_tables.tunings(cso, tuning) else tuning  # CSO's Table 4 is of adapters
measured += [cso_tables.table_2(cso, evaluation, tuning, name), cso_tables.table_4(cso, adapters, name)]
measured += [cso_tables.losses(cso, table, tuning, name) for table in cso_tables.BACKBONES]
measured += [cso_tables.table_5(book["esc-pro"], book.profile.search.seeds, name)]
report = replication.report(measured)

# %% [markdown]
# Beside {glue:text}`attempted` of {glue:text}`cells` numbers in {glue:text}`tables` tables ({glue:text}`share`%) stands a measurement; these are {glue:text}`measurements` different measurements.
# In cells, and in brackets as measurements: {glue:text}`exact` are exact, {glue:text}`within` lie within our interval, and {glue:text}`incomparable` are of another kind than the paper's.
# {glue:text}`from_paper` settings are taken from the paper in the profile of their backbone, and {glue:text}`changed` are changed.
# Numbers can't be compared for these reasons, with their cells: {glue:text}`incomparable_why` ([table by table](why-not)).
# A fine-tuned model that the paper compares with its base is among them where ours of that base follows no instruction.
# The rest can't be had here: a paid judge, people's ratings, a base model that answers, sums over two backbones, and, where the profile trains in one way only, the papers' other way.
# Tables that hold no numbers (the rubrics, the map of strategies, the case study) are left out.
#
# ## Every cell
#
# Each tile is a number of the papers, its sign the verdict; a second sign is the direction where that says more.
# Point at a tile, or go from tile to tile with the arrow keys, to read the numbers, the interval and the reason, and what other backbones measured of the same cell.
# What the filters leave can be read as a table or saved as CSV.

# %% tags=["hide-input"]
every = {of: one.together for of, one in book.everywhere("questions").items()} | book.everywhere("metrics")
beside = backbones.cells(book.beside, every, book.everywhere("metrics-cso"))
explorers.report(report, f"All cells with a measurement, profile {name}; low and high are the ends of 95% intervals.", beside)

# %% [markdown]
# ## By table

# %% tags=["hide-input"]
counts = replication.summary(report)
names = {key: table.name for key, table in load_tables().items()}
directions = replication.summary(report, "direction")
attempted = report[report.measured.notna()]


def how_many(by: str, value: str) -> str:
    """Cells, and in brackets the measurements that they are."""
    found = report[report[by] == value]
    return f"{len(found)} ({replication.measurements(found)})"


turned = report[report.direction == "opposite"]
opposite_where = ", ".join(f"{count} of {of}" for of, count in turned["column"].value_counts().items()) or "none"
by_chance = 0.05 * replication.measurements(report[report.direction.isin(["same direction", "opposite", "undecided"])])
figures.glue_numbers(
    profile_name=name, cells=f"{len(report):,}", attempted=len(attempted), measurements=replication.measurements(report), tables=len(counts),
    share=f"{100 * len(attempted) / len(report):.0f}", exact=how_many("status", "exact"), incomparable=how_many("status", "not comparable"),
    within=how_many("status", "within the interval"), same=how_many("direction", "same direction"), opposite=how_many("direction", "opposite"),
    opposite_where=opposite_where, undecided=how_many("direction", "undecided"), noise=how_many("direction", "within the paper's noise"), by_chance=f"{by_chance:.0f}",
    from_paper=int((report.status == "taken from the paper").sum()), changed=int((report.status == "changed").sum()),
)  # fmt: skip

# %% tags=["hide-cell"]
below = "".join(f"; below, of the tables with systems, {one.backbone}" for one in book.beside if one.backbone in beside)
results_table(backbones.summary(counts, beside), f"Status of every number of both papers, profile {name}{below}.")

# %% [markdown]
# Where a number depends on training, this profile departs from the papers in what follows.

# %% tags=["hide-input"]
for deviation in book.profile.deviations:
    print(f"* {deviation}")

# %% [markdown]
# The cells of Tables 1 and 6 are counts of data, and hold under every profile.
# Those of Table 3 were made by profile {glue:text}`profile_name`; where that is `smoke`, they show that the comparison works and say nothing about either paper.

# %% [markdown]
# ## Directions
#
# A number can agree while the difference that the paper speaks of does not, and the other way round.
# So every cell with a comparison row has a direction, whatever its status.

# %% tags=["hide-cell"]
results_table(directions.rename(index=names), f"Direction of the difference from the comparison row, profile {name}; 95% intervals.")

# %% [markdown]
# In cells, and in brackets as measurements: {glue:text}`same` have the paper's direction, {glue:text}`opposite` the opposite one, and {glue:text}`undecided` may be zero.
# For {glue:text}`noise` there is no direction to confirm: on a test set of the paper's size chance alone makes a difference as large as the paper's.
# Each interval stands alone here: if no difference were real, about {glue:text}`by_chance` measurements would show a direction.
# What the claims come to is asked in chapters [09](09_ask_rq1.ipynb) to [13](13_optimise_strategy_chains.ipynb), with a correction for how much is asked.

# %% [markdown]
# ## Figures
#
# A number that only a picture shows is not known here: nothing was read off pixels.
# What the papers print of a figure, in tables or in the text, stands as hollow marks on ours.

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.present.paper import load_figures

SHORT = {"decoupledesc": "DecoupledESC", "cso": "CSO"}
drawn = pd.DataFrame(
    [
        {
            "figure": f"{SHORT[one.paper]} {one.number}", "shows": one.title, "here": f"chapter {one.chapter[:2]}" if one.chapter else "–",
            "printed of it": one.printed or "–", "note": one.note or "",
        }
        for one in load_figures()
    ]
).set_index("figure")
results_table(drawn, "Figures of both papers, where they are here, and which of their numbers are printed.")

# %% [markdown]
# (why-not)=
# ## Why not

# %% tags=["hide-cell"]
unlike = report[report.status.isin(["not attempted", "not comparable", "changed"])].replace({"table": names})
reasons = unlike.groupby(["table", "status", "why"], sort=False).size().rename("cells").reset_index()
kinds = report[report.status == "not comparable"].why.str.replace(r"^\S+ follows no instruction.*", "a base model follows no instruction", regex=True).value_counts()
figures.glue_numbers(incomparable_why="; ".join(f"{why} ({count})" for why, count in kinds.items()))
results_table(reasons.set_index("table"), f"Cells that were not attempted, that can't be compared, or that are settings which were changed, and why; profile {name}.")
