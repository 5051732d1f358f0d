"""The reference of preference optimisation: what the policy thought of every answer before it was changed.

The reference never changes, so its log-probabilities are computed once, packed as training packs them, and kept on
disk; the reference model itself takes no memory while the policy trains.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import turn_trees

from decoupled_esc import progress
from decoupled_esc.files import Rows
from decoupled_esc.train.data import Sequences


def reference_key(weights: str, sequences: Sequences) -> str:
    """16 hex digits that name (weights, data, layout): ``weights`` is the policy's digest, the tokens say the rest."""
    sha = hashlib.sha256(weights.encode())
    for names, packed in zip(sequences.ids, sequences.packed, strict=True):
        row = [names, packed.tokens, packed.depths, packed.predict_positions, packed.targets]
        sha.update(json.dumps(row).encode())
    return sha.hexdigest()[:16]


def reference_logps(
    model, sequences: Sequences, weights: str, folder: Path, precision: str = "float32"
) -> list[list[float]]:
    """For each sequence the log-probability of each of its answers under ``model``, dropout off, without gradient.

    ``precision`` is the training's, so that reference and policy round alike.
    Read from ``folder`` where it holds them under this precision and the key of these weights and sequences; what is
    missing is computed and written down sequence by sequence, so that a killed run goes on where it stopped.  A row
    that is damaged, foreign or out of its place is named, and computed again with all that follow.
    """
    key = f"{precision}-{reference_key(weights, sequences)}"
    rows = Rows(folder / f"reference-{key}.jsonl", key)
    with progress.bar(len(sequences), "reference", initial=len(rows.by_id)) as bar:
        for number, passes in list(enumerate(sequences.passes))[len(rows.by_id) :]:
            rows.append([{"id": str(number), "logps": turn_trees.frozen_logps(model, passes, precision).tolist()}])
            bar.update()
    return [row["logps"] for row in rows.by_id.values()]
