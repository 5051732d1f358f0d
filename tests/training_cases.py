"""What the tests of training stand on: a small model, short prompts, a few dialogues."""

from pathlib import Path

import pytest
import torch

from decoupled_esc import models, taxonomy, train
from decoupled_esc.corpus import Turn, turns
from decoupled_esc.prompts import Prompt

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=512)
FULL = train.Training(
    epochs=2, learning_rate=1e-2, batch_size=4, per_device_batch_size=4, schedule="cosine", warmup_ratio=0.1, lora=None,
    precision="float32", checkpoint_every=2,
)  # fmt: skip
LORA = FULL.model_copy(update={"lora": train.Lora(rank=4, alpha=8, dropout=0.3)})
DPO = train.Preference(loss="dpo", beta=0.1)
MAX_LENGTH = 400

torch.set_num_threads(1)


def talk(turn: Turn) -> Prompt:
    """A layout with short prompts, to keep these tests quick; its turns share the dialogue so far."""
    said = tuple(("user" if m.role == "seeker" else "assistant", m.text) for m in turn.context)
    return Prompt(turn.id, said, turn.strategy)


def opening(dialogues, count: int) -> list[Turn]:
    """The first three turns of ``count`` dialogues."""
    return [t for d in dialogues[:count] for t in turns(d)[:3]]


@pytest.fixture(scope="module")
def sequences(tokenizer, dialogues) -> train.Sequences:
    """12 dialogues of different lengths: 3 steps of 4 an epoch."""
    return train.encode(opening(dialogues, 12), talk, tokenizer, MAX_LENGTH)


def fresh(tokenizer):
    return models.create(SHAPE, tokenizer, seed=3)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def pairs(tokenizer, dialogues) -> train.Sequences:
    """Of the same 12 dialogues, but of every second turn two pairs."""
    made = []
    for turn in opening(dialogues, 12):
        others = [name for name in taxonomy.STRATEGIES if name != turn.strategy]
        made += [train.Pair(f"{turn.id}#{n}", turn, others[n]) for n in range(1 + len(turn.context) // 2 % 2)]
    return train.encode_pairs(made, talk, tokenizer, MAX_LENGTH)


@pytest.fixture(scope="module")
def fine_tuned(tokenizer, sequences, tmp_path_factory) -> Path:
    """A folder with a base model (``base``) and an adapter that was fine-tuned on it (``policy``)."""
    folder, model = tmp_path_factory.mktemp("fine-tuned"), fresh(tokenizer)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    train.fine_tune(model, tokenizer, sequences, LORA.model_copy(update={"epochs": 1}), folder, seed=5)
    return folder
