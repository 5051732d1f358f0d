"""Steps, their keys, the store of their results, and one scheduler.  Knows nothing of dialogues or models.

step      a step is a frozen dataclass; its key is known before anything runs
store     results under their keys
schedule  a topological walk over futures
workers   where steps run: warm processes on this machine, or jobs of a SLURM cluster
"""

from decoupled_esc.pipeline.step import Missing, Step, StepError, UpstreamMissing, Work, attempt, closure, unkeyed
