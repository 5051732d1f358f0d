# The book as a graph: stages, then chapters, then the book.  `decoupled-esc run` calls this; the graph itself is
# decoupled_esc.workflow.dag, so that `status` and this file can't disagree.
from decoupled_esc.workflow import dag

PROFILE = config.get("profile", "smoke")
JOBS = dag.jobs(PROFILE)
if not (dag.build(PROFILE) / "data.txt").exists():
    dag.note_data(PROFILE)  # `decoupled-esc run` has done it already


rule all:
    input: JOBS[-1].marker,


for job in JOBS:
    rule:
        name: job.name.replace("-", "_").replace("@", "_")
        input: job.needs, job.files,
        output: touch(job.marker),
        params: kind=job.kind, job=job.name,
        resources: **job.resources,
        shell: "decoupled-esc job {params.kind} {params.job} --profile " + PROFILE
