"""Training on whole dialogues: supervised fine-tuning and preference optimisation, on trl and peft.

data      from turns and pairs to packed sequences
losses    DPO, IPO, SimPO, KTO, ORPO as functions of log-probabilities
reference the log-probabilities of the policy that preference optimisation starts from, computed once
trainer   one trl trainer for all of it
launch    the same in several processes
pretrain  making a small base model from open text, before all of these
"""

from decoupled_esc.train.data import Pair, Sequences, encode, encode_pairs
from decoupled_esc.train.launch import Launch, LaunchError, launched
from decoupled_esc.train.reference import reference_key, reference_logps
from decoupled_esc.train.trainer import Log, Lora, Preference, ReferenceMismatch, Training, fine_tune, held_out_loss

__all__ = [
    "Launch",
    "LaunchError",
    "Log",
    "Lora",
    "Pair",
    "Preference",
    "ReferenceMismatch",
    "Sequences",
    "Training",
    "encode",
    "encode_pairs",
    "fine_tune",
    "held_out_loss",
    "launched",
    "reference_key",
    "reference_logps",
]
