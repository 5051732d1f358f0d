"""Turn trees: train on conversations with every prefix read once, by the losses, arguments and columns of trl's trainers.

``trees`` packs prompts and answers, ``attention`` reads a tree, ``losses`` are functions of what it says of the answers,
``trainers`` are transformers' Trainer on forests.  What needs PyTorch is imported when it is first asked for.
"""

from importlib import import_module
from typing import Any

from turn_trees.trees import Example, Packed, PackingError, common_prefix, groups, join, pack, split, subtree_ends

LAZY = {
    "attention": "ATTENTION ancestors answer_logits answer_logps attention_kwargs attention_mask frozen_logps "
    "logps_in_passes use_tree_attention",
    "losses": "Loss losses",
    "trainers": "CPOTrainer DPOTrainer KTOTrainer ORPOTrainer SFTTrainer TreeCollator TreeSampler TreeTrainer",
}
TREES = [Example, Packed, PackingError, common_prefix, groups, join, pack, split, subtree_ends]
__all__ = sorted([one.__name__ for one in TREES] + " ".join(LAZY.values()).split())


def __getattr__(name: str) -> Any:
    for module, names in LAZY.items():
        if name in names.split():
            found = import_module(f"turn_trees.{module}")
            return found if name == module else getattr(found, name)
    raise AttributeError(f"module 'turn_trees' has no attribute {name!r}")
