"""The reference of preference optimisation: what the policy thought of every answer before it was changed.

The reference never changes, so its log-probabilities are computed once, packed as training packs them, and kept on disk;
the reference model itself takes no memory while the policy trains.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from decoupled_esc import progress
from decoupled_esc.packing import Packed, answer_logps
from decoupled_esc.train.data import Sequences


def reference_key(weights: str, sequences: Sequences) -> str:
    """16 hex digits that name (weights, data, layout): ``weights`` is the policy's digest, the tokens say the rest."""
    sha = hashlib.sha256(weights.encode())
    for names, packed in zip(sequences.ids, sequences.packed, strict=True):
        sha.update(json.dumps([names, packed.tokens, packed.depths, packed.predictors, packed.targets]).encode())
    return sha.hexdigest()[:16]


def reference_logps(
    model, sequences: Sequences, weights: str, folder: Path, precision: str = "float32"
) -> list[list[float]]:
    """For each sequence the log-probability of each of its answers under ``model``, dropout off, without gradient.

    ``precision`` is the training's, so that reference and policy round alike.
    Read from ``folder`` where it holds them under this precision and the key of these weights and sequences; what is
    missing is computed and written down sequence by sequence, so that a killed run goes on where it stopped.
    """
    file = folder / f"reference-{precision}-{reference_key(weights, sequences)}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done = _read(file)
    with (
        file.open("a", encoding="utf-8") as out,
        progress.bar(len(sequences), "reference", initial=len(done)) as bar,
    ):
        for packed in sequences.packed[len(done) :]:
            done.append(frozen_logps(model, packed, precision).tolist())
            out.write(json.dumps(done[-1]) + "\n")
            out.flush()
            bar.update()
    return done


def frozen_logps(model, packed: Packed, precision: str):
    """[answers] float32: ``answer_logps`` without dropout or gradient, in the arithmetic that training uses."""
    import torch

    was_training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logps = answer_logps(model, packed)
    model.train(was_training)
    return logps


def _read(file: Path) -> list[list[float]]:
    """The whole lines of ``file``; a last line that was being written when the run was killed is cut off."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]
