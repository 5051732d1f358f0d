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
# Every number of every table of both papers {cite}`zhang2025decoupledesc,zhao2025cso` has a status here.
# The numbers stand in one data file of this repository; the chapters' measurements are joined to them, and a cell that nothing was measured for carries the reason.
# If a single cell had no status, this page could not be built.
#
# What to look at: how much is still *not attempted*, and whether anything says *opposite*.

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import cso_tables, figures, replication
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
]
cso = book["metrics-cso"].together
tuning = "full" if book.profile.cso.training.lora is None else "lora"
measured += [cso_tables.table_2(cso, evaluation, tuning, name), cso_tables.table_4(cso, name)]
measured += [cso_tables.losses(cso, table, tuning, name) for table in cso_tables.BACKBONES]
measured += [cso_tables.table_5(book["esc-pro"], name)]
report = replication.report(measured)

# %% [markdown]
# ## By table

# %% tags=["hide-input"]
counts = replication.summary(report)
names = {key: table.name for key, table in load_tables().items()}
attempted = report[report.status != "not attempted"]
figures.glue_numbers(
    profile_name=name, cells=f"{len(report):,}", attempted=len(attempted), tables=len(counts),
    share=f"{100 * len(attempted) / len(report):.0f}", exact=int((report.status == "exact").sum()),
    opposite=int((report.status == "opposite").sum()),
)
results_table(counts.rename(index=names), f"Status of every number of both papers, profile {name}.")

# %% [markdown]
# {glue:text}`attempted` of {glue:text}`cells` numbers in {glue:text}`tables` tables have been measured ({glue:text}`share`%), {glue:text}`exact` of them exactly, and {glue:text}`opposite` came out the other way round.
# The rest can't be had here: a paid judge, people's ratings, and, where the profile trains in one way only, the papers' other way.
# Tables that hold no numbers (the rubrics, the map of strategies, the case study) are left out.
#
# Where a number depends on training, this profile departs from the papers in what follows.

# %% tags=["hide-input"]
for deviation in book.profile.deviations:
    print(f"* {deviation}")

# %% [markdown]
# The cells of Tables 1 and 6 are counts of data, and hold under every profile.
# Those of Table 3 were made by profile {glue:text}`profile_name`; where that is `smoke`, they show that the comparison works and say nothing about either paper.

# %% [markdown]
# ## Why not

# %% tags=["hide-input"]
missing = report[report.status == "not attempted"].replace({"table": names})
reasons = missing.groupby(["table", "why"], sort=False).size().rename("cells").reset_index()
results_table(reasons.set_index("table"), f"Cells that were not attempted, and why; profile {name}.")

# %% [markdown]
# ## Every measured cell

# %% tags=["hide-input"]
results_table(replication.listing(attempted).set_index("table"), f"All cells with a measurement, profile {name}; 95% intervals.")
