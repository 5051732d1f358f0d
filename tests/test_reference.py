"""The reference's log-probabilities: what they are, that they are computed once, and that a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from decoupled_esc import models, packing, prompts, taxonomy, train
from decoupled_esc.corpus import Turn, read_raw, turns
from decoupled_esc.corpus.split import MANIFEST

SHAPE = models.Shape(
    vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=2048
)
WINDOW = 2048

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def asked() -> list[Turn]:
    dialogues, _ = read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")
    return [t for d in dialogues[:4] for t in turns(d)[:2]]


def pairs(asked: list[Turn]) -> list[train.Pair]:
    """Each turn's, against the strategy that follows its own."""
    names = taxonomy.STRATEGIES
    return [train.Pair(t.id, t, names[(names.index(t.strategy) + 1) % len(names)]) for t in asked]


@pytest.fixture(scope="module")
def sequences(tokenizer, asked) -> train.Sequences:
    return train.encode_pairs(pairs(asked), prompts.planner, tokenizer, WINDOW)


@pytest.fixture
def model(tokenizer):
    """A policy with dropout, in training mode, whose adapter is not zero."""
    how = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return get_peft_model(models.create(SHAPE, tokenizer, seed=3), how).train()


class Dying(torch.nn.Module):
    """A model that may be asked for ``left`` more sequences; then the run is killed."""

    def __init__(self, model, left: int):
        super().__init__()
        self.model, self.left = model, left
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    def forward(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.model(*args, **kwargs)


def file_in(folder: Path) -> Path:
    (file,) = folder.glob("reference-*.jsonl")
    return file


# What they are --------------------------------------------------------------------------------------------------


def test_a_reference_is_the_answers_log_probabilities_without_dropout(model, sequences, tmp_path):
    found = train.reference_logps(model, sequences, "w", tmp_path)
    assert all(module.training for module in model.modules())  # as it was handed over
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        dropped = packing.answer_logps(model, sequences.packed[0]).tolist()
        model.eval()
        expected = [packing.answer_logps(model, packed).tolist() for packed in sequences.packed]
    assert found == expected
    assert dropped != pytest.approx(expected[0], rel=1e-3)  # the dropout was there
    assert [len(row) for row in found] == [packed.answers for packed in sequences.packed]


def test_a_model_in_evaluation_mode_stays_in_it(model, sequences, tmp_path):
    train.reference_logps(model.eval(), sequences, "w", tmp_path)
    assert not any(module.training for module in model.modules())


# Once -----------------------------------------------------------------------------------------------------------


def test_a_reference_on_disk_is_read_and_not_computed(model, sequences, tmp_path):
    found = train.reference_logps(model, sequences, "w", tmp_path / "new" / "folder")
    written = file_in(tmp_path / "new" / "folder").read_bytes()
    assert train.reference_logps(None, sequences, "w", tmp_path / "new" / "folder") == found  # to the last bit
    assert file_in(tmp_path / "new" / "folder").read_bytes() == written
    with pytest.raises(KeyboardInterrupt):
        train.reference_logps(Dying(model, 0), sequences, "other weights", tmp_path / "new" / "folder")


def test_each_precision_has_its_own_reference(model, sequences, tmp_path):
    exact, rounded = (train.reference_logps(model, sequences, "w", tmp_path, p) for p in ("float32", "bfloat16"))
    assert len(list(tmp_path.glob("reference-*.jsonl"))) == 2
    for a, b in zip(exact, rounded, strict=True):
        assert a != b and a == pytest.approx(b, rel=1e-2)
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
        assert packing.answer_logps(model.eval(), sequences.packed[0]).tolist() == rounded[0]
    assert train.reference_logps(None, sequences, "w", tmp_path, "bfloat16") == rounded


def test_the_key_names_weights_data_and_layout(tokenizer, asked, sequences):
    key = train.reference_key("w", sequences)
    assert len(key) == 16 and set(key) <= set("0123456789abcdef")
    mine = pairs(asked)
    renamed = [replace(mine[0], id="another"), *mine[1:]]
    reworded = [replace(mine[0], rejected="Others"), *mine[1:]]
    assert mine[0].rejected != "Others"
    others = {
        "weights": train.reference_key("v", sequences),
        **{
            what: train.reference_key("w", made)
            for what, made in {
                "layout": train.encode_pairs(mine, prompts.generator, tokenizer, WINDOW),
                "names": train.encode_pairs(renamed, prompts.planner, tokenizer, WINDOW),
                "answers": train.encode_pairs(reworded, prompts.planner, tokenizer, WINDOW),
                "order": train.encode_pairs(mine[::-1], prompts.planner, tokenizer, WINDOW),
                "fewer": train.encode_pairs(mine[:-1], prompts.planner, tokenizer, WINDOW),
                "window": train.encode_pairs(mine, prompts.planner, tokenizer, 330),
                "unit": train.encode_pairs(mine, prompts.planner, tokenizer, WINDOW, "turn"),
                "mismatched": train.encode_pairs(mine, prompts.planner, tokenizer, WINDOW, mismatched=1),
                "their seed": train.encode_pairs(mine, prompts.planner, tokenizer, WINDOW, mismatched=2),
            }.items()
        },
    }
    assert train.encode_pairs(mine, prompts.planner, tokenizer, 330).cut > 0
    assert len({key, *others.values()}) == 1 + len(others), others


def test_the_key_does_not_change_otherwise(tokenizer, asked, sequences):
    again = train.encode_pairs(pairs(asked), prompts.planner, tokenizer, WINDOW)
    assert again is not sequences and train.reference_key("w", again) == train.reference_key("w", sequences)
    # A window that cuts nothing is as good as any other.
    roomy = train.encode_pairs(pairs(asked), prompts.planner, tokenizer, 2 * WINDOW)
    assert train.reference_key("w", roomy) == train.reference_key("w", sequences)


# Killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 7, None], ids=["whole", "newline lost", "in a number", "first line"])
def test_a_killed_reference_goes_on_where_it_stopped(model, sequences, tmp_path, cut):
    """Killed between two sequences, or while a line was written."""
    expected = train.reference_logps(model, sequences, "w", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train.reference_logps(Dying(model, 2), sequences, "w", tmp_path / "killed")
    file = file_in(tmp_path / "killed")
    written = file.read_text()
    assert written == "".join(json.dumps(row) + "\n" for row in expected[:2])
    file.write_text(written[:9] if cut is None else written[: len(written) - cut])
    lost = 2 if cut is None else cut > 0
    left = len(sequences) - 2 + lost
    assert train.reference_logps(Dying(model.train(), left), sequences, "w", tmp_path / "killed") == expected
    assert file.read_bytes() == file_in(tmp_path / "whole").read_bytes()


# KTO's mismatched answers ---------------------------------------------------------------------------------------


def third_answers(pairs: list[train.Pair], tokenizer, seed: int) -> list[str]:
    """As text, in the order of ``pairs``."""
    made = train.encode_pairs(pairs, prompts.generator_trunk, tokenizer, WINDOW, mismatched=seed)
    assert made.answers_each == 3
    found = []
    for packed in made.packed:
        for answer in range(2, packed.answers, 3):
            tokens = [token for token, owner in zip(packed.targets, packed.owners, strict=True) if owner == answer]
            found.append(tokenizer.decode(tokens).removesuffix(models.END))
    return found


def test_every_pair_is_given_the_chosen_answer_of_another(tokenizer, asked):
    mine = pairs(asked)
    for some in (mine, mine[:-1], mine[:2]):
        chosen = [pair.turn.reply for pair in some]
        assert len(set(chosen)) == len(chosen)
        for seed in range(10):
            given = third_answers(some, tokenizer, seed)
            assert sorted(given) == sorted(chosen)  # each once
            assert all(own != other for own, other in zip(chosen, given, strict=True))
    assert third_answers(mine, tokenizer, 1) == third_answers(mine, tokenizer, 1) != third_answers(mine, tokenizer, 2)


def test_the_mismatched_answer_belongs_to_another_prompt(tokenizer, asked):
    """Of a turn that stands in several pairs, too (``losses.kto``: "answers that belong to other prompts")."""
    mine = [replace(pair, id=f"{pair.id}#{n}") for pair in pairs(asked) for n in range(3)]
    for seed in range(5):
        given = third_answers(mine, tokenizer, seed)
        assert all(pair.turn.reply != other for pair, other in zip(mine, given, strict=True))
