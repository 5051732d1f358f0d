"""Training on whole dialogues: supervised fine-tuning and preference optimisation, on transformers' Trainer and peft.

config    what a profile says of a training
data      from turns and pairs to packed sequences
reference the log-probabilities of the policy that preference optimisation starts from, computed once
trainer   turn_trees' trainer for all of it; checkpoints: what it resumes from
held_out  loss, divergence and perplexity on held-out text
launch    the same in several processes
policies  from beginning to end: train_sft, train_preference
"""

from decoupled_esc.train.config import Launch, Lora, Preference, Training, TrainingError
from decoupled_esc.train.data import Pair, Sequences, encode, encode_pairs
from decoupled_esc.train.held_out import compared, held_out_loss
from decoupled_esc.train.launch import Job, LaunchError, launched
from decoupled_esc.train.policies import FineTuned, Preferred, train_preference, train_sft
from decoupled_esc.train.reference import reference_key, reference_logps
from decoupled_esc.train.trainer import Log, ReferenceMismatch, fine_tune
