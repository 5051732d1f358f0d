"""The reference's log-probabilities: what they are, that they are computed once, and that a killed run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from turn_trees import answer_logps

from decoupled_esc import models, prompts, taxonomy, train
from decoupled_esc.corpus import Turn, turns

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=2048)
MAX_LENGTH = 2048

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def asked(dialogues) -> list[Turn]:
    return [t for d in dialogues[:4] for t in turns(d)[:2]]


def pairs(asked: list[Turn]) -> list[train.Pair]:
    """Each turn's, against the strategy that follows its own."""
    names = taxonomy.STRATEGIES
    return [train.Pair(t.id, t, names[(names.index(t.strategy) + 1) % len(names)]) for t in asked]


@pytest.fixture(scope="module")
def sequences(tokenizer, asked) -> train.Sequences:
    return train.encode_pairs(pairs(asked), prompts.planner, tokenizer, MAX_LENGTH)


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
        dropped = answer_logps(model, sequences.packed[0]).tolist()
        model.eval()
        expected = [answer_logps(model, packed).tolist() for packed in sequences.packed]
    assert found == expected
    assert dropped != pytest.approx(expected[0], rel=1e-3)  # the dropout was there
    assert [len(row) for row in found] == [packed.answers for packed in sequences.packed]


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
        assert answer_logps(model.eval(), sequences.packed[0]).tolist() == rounded[0]
    assert train.reference_logps(None, sequences, "w", tmp_path, "bfloat16") == rounded


def test_the_key_names_weights_data_and_layout(tokenizer, asked, sequences):
    key = train.reference_key("w", sequences)
    assert len(key) == 16 and set(key) <= set("0123456789abcdef")
    mine = pairs(asked)
    renamed = [replace(mine[0], id="another"), *mine[1:]]
    reworded = [replace(mine[0], rejected="Others"), *mine[1:]]
    assert mine[0].rejected != "Others"

    def key_of(pairs=mine, layout=prompts.planner, max_length=MAX_LENGTH, unit="dialogue", **more):
        return train.reference_key("w", train.encode_pairs(pairs, layout, tokenizer, max_length, unit, **more))

    others = {
        "weights": train.reference_key("v", sequences), "layout": key_of(layout=prompts.generator), "names": key_of(renamed),
        "answers": key_of(reworded), "order": key_of(mine[::-1]), "fewer": key_of(mine[:-1]), "max_length": key_of(max_length=330),
        "unit": key_of(unit="turn"), "mismatched": key_of(mismatched=1), "their seed": key_of(mismatched=2),
    }  # fmt: skip
    assert train.encode_pairs(mine, prompts.planner, tokenizer, 330).cut > 0
    assert len({key, *others.values()}) == 1 + len(others), others


def test_the_key_does_not_change_otherwise(tokenizer, asked, sequences):
    again = train.encode_pairs(pairs(asked), prompts.planner, tokenizer, MAX_LENGTH)
    assert again is not sequences and train.reference_key("w", again) == train.reference_key("w", sequences)
    # A length that cuts nothing is as good as any other.
    roomy = train.encode_pairs(pairs(asked), prompts.planner, tokenizer, 2 * MAX_LENGTH)
    assert train.reference_key("w", roomy) == train.reference_key("w", sequences)


# Killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [False, True])
def test_a_damaged_or_unfinished_reference_is_completed(model, sequences, tmp_path, capsys, damaged):
    """Every kind of damage that is seen stands in test_faults."""
    expected = train.reference_logps(model, sequences, "w", tmp_path / "whole")
    first, second, *rest = file_in(tmp_path / "whole").read_text().splitlines(keepends=True)
    kept = [first, second.replace("-", "-1", 1), *rest] if damaged else [first, second]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / file_in(tmp_path / "whole").name).write_text("".join(kept))
    left = len(sequences) - (1 if damaged else 2)
    assert train.reference_logps(Dying(model.train(), left), sequences, "w", tmp_path / "broken") == expected
    assert file_in(tmp_path / "broken").read_bytes() == file_in(tmp_path / "whole").read_bytes()
    assert ("damaged or foreign" in capsys.readouterr().err) == damaged


def test_rows_of_another_policy_are_not_used(model, sequences, tmp_path):
    expected = train.reference_logps(model, sequences, "w", tmp_path / "whole")
    train.reference_logps(model, sequences, "v", tmp_path / "other")
    foreign = tmp_path / "broken" / file_in(tmp_path / "whole").name
    foreign.parent.mkdir()
    foreign.write_bytes(file_in(tmp_path / "other").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        train.reference_logps(Dying(model, len(sequences) - 1), sequences, "w", foreign.parent)
    assert train.reference_logps(Dying(model, 1), sequences, "w", foreign.parent) == expected, "killed, it goes on"


# KTO's mismatched answers ---------------------------------------------------------------------------------------


def third_answers(pairs: list[train.Pair], tokenizer, seed: int) -> list[str]:
    """As text, in the order of ``pairs``."""
    made = train.encode_pairs(pairs, prompts.generator_trunk, tokenizer, MAX_LENGTH, mismatched=seed)
    assert made.answers_each == 3
    found = []
    for packed in made.packed:
        for answer in range(2, packed.answers, 3):
            own = zip(packed.targets, packed.completion_index, strict=True)
            found.append(tokenizer.decode([token for token, n in own if n == answer]).removesuffix(models.END))
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
