"""How often an interval over few trainings is wrong, and how often a claim is decided that should not be.

    python bench/coverage.py

Two systems are planners of the same kind, so that no difference between them is real.  Each training shifts the log-probabilities
of the eight strategies at random, and so does each dialogue, for a system and again for each of its trainings; then a strategy is
sampled for every turn.  Trainings vary from not at all to more than dialogues do, as the book's own differences show it.
``interval``: how often it holds 0; ``row``: how often a row is *supported* or *contradicted* by Holm's correction; ``question``:
how often any row of a table is; ``resampled seeds``: the intervals of before, which resampled seeds like dialogues.
Results are in results/bench/coverage.json; chapters 09 to 11 and 13 print the worst case.
"""

from __future__ import annotations

import json

import numpy as np
from statsmodels.stats.multitest import multipletests
from tqdm import tqdm

from decoupled_esc.evaluate import strategy_scores
from decoupled_esc.evaluate.bootstrap import Resampled, cluster_weights, over_trainings
from decoupled_esc.experiments.run import ROOT, surroundings
from decoupled_esc.files import write_atomically

OUT = ROOT / "results" / "bench" / "coverage.json"
DIALOGUES, TURNS = 130, 14
SHARES = np.array([0.21, 0.16, 0.15, 0.10, 0.09, 0.07, 0.06, 0.16])
"""About those of ESConv's strategies."""
KNOWN = 0.8  # What the gold strategy's log-probability has more: macro F1 is then about 22
BY_DIALOGUE = 0.3  # Standard deviation of a dialogue's shifts
BY_TRAINING = {"trainings are equal": 0.0, "trainings differ": 0.3, "trainings dominate": 1.0}
"""Standard deviation of a training's shifts."""
TRIALS, REPLICATES = 1000, 300


def scores(rng: np.random.Generator, gold: np.ndarray, spread: float, trainings: int, weights: np.ndarray) -> list[dict]:
    """The strategy metrics of one system under each of its trainings, at ``gold`` [dialogues, turns]."""
    own, found = rng.normal(0, BY_DIALOGUE, (DIALOGUES, 1, 8)), []
    for _ in range(trainings):
        shift = rng.normal(0, spread, 8) + rng.normal(0, BY_DIALOGUE, (DIALOGUES, 1, 8))
        logits = np.log(SHARES) + KNOWN * np.eye(8)[gold] + own + shift
        said = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        w = np.zeros((DIALOGUES, 8, 8), dtype=np.int64)
        np.add.at(w, (np.arange(DIALOGUES)[:, None], said, gold), 1)
        found.append(strategy_scores(w[None], np.zeros((1, DIALOGUES, 8), dtype=np.int64), weights, "paper"))
    return found


def resampled_seeds(rng: np.random.Generator, trainings: list[Resampled]) -> bool:
    """Whether 0 is in the interval of before: percentiles over dialogues and seeds, resampled alike."""
    number = len(trainings)
    shares = rng.multinomial(number, np.full(number, 1 / number), size=REPLICATES) / number
    copies = sum(share * one.copies for share, one in zip(shares.T, trainings, strict=True))
    low, high = np.quantile(copies, (0.025, 0.975))
    return low <= 0 <= high


def trial(rng: np.random.Generator, spread: float, trainings: int) -> dict[str, list[bool]]:
    """For each metric, whether either interval holds 0 and whether the row is decided."""
    gold = rng.choice(8, size=(DIALOGUES, TURNS), p=SHARES)
    weights = cluster_weights(DIALOGUES, REPLICATES, int(rng.integers(2**31)))
    one, two = (scores(rng, gold, spread, trainings, weights) for _ in range(2))
    differences = [[a[key] - b[key] for a, b in zip(one, two, strict=True)] for key in one[0]]
    found = [over_trainings(each) for each in differences]
    return {
        "interval": [mean.low <= 0 <= mean.high for mean in found],
        "row": (multipletests([mean.p for mean in found], method="holm")[1] < 0.05).tolist(),
        "resampled seeds": [resampled_seeds(rng, each) for each in differences],
    }


def main() -> None:
    rows = []
    for trainings in (3, 5):
        for name, spread in BY_TRAINING.items():
            rng = np.random.default_rng([trainings, int(100 * spread)])
            found = [trial(rng, spread, trainings) for _ in tqdm(range(TRIALS), desc=f"{trainings}, {name}")]
            share = {key: np.mean([one[key] for one in found], axis=0).round(4) for key in found[0]}
            rows.append({
                "trainings": trainings,
                "case": name,
                **{key: dict(zip(("Q_W", "Q", "B"), values.tolist(), strict=True)) for key, values in share.items()},
                "question": float(np.mean([any(one["row"]) for one in found])),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    where = surroundings()
    lines = {"trials": TRIALS, "dialogues": DIALOGUES, "turns": TURNS, "rows": rows, "date": where["date"], "commit": where["commit"]}
    write_atomically(OUT, json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
