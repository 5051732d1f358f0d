"""Preference losses as pure functions of log-probabilities, and as what a trainer asks of a forest.

Every tensor, and every loss, has one entry a pair, shape [n]; nothing is averaged.  ``policy_*_logps`` are the policy's
log-probabilities of the answers; ``reference_*_logps`` those of the frozen policy that training started from.  Losses
that say "per token" take log-probabilities divided by the answer's length.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import logsigmoid

from turn_trees.trees import Packed


def dpo(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """Direct preference optimisation (Rafailov et al. 2023, Eq. 7): ``-log sigma(beta * margin)`` of the log-ratios."""
    margin = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return -logsigmoid(beta * margin)


def ipo(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor, beta: float,
) -> Tensor:  # fmt: skip
    """Identity preference optimisation (Azar et al. 2023, Eq. 17): ``(margin - 1 / (2 beta))^2``, all four per token."""
    margin = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return (margin - 1 / (2 * beta)) ** 2


def simpo(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation (Meng et al. 2024, Eq. 6): ``-log sigma(beta * margin - gamma)``, both per token."""
    return -logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps) - gamma)


def kto(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor, policy_mismatched_logps: Tensor, reference_mismatched_logps: Tensor,
    beta: float, chosen_weight: float | Tensor, rejected_weight: float | Tensor,
) -> Tensor:  # fmt: skip
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, Eqs. 7 and 8); a pair is a wanted and an unwanted answer.

    ``w_chosen * (1 - sigma(beta (r_chosen - z))) + w_rejected * (1 - sigma(beta (z - r_rejected)))``, where the
    reference point ``z`` is the mean log-ratio of answers that belong to other prompts (``*_mismatched_logps``), at least
    0 and without gradient.  Half the sum, so that the mean over pairs is the mean over answers.  A weight may be [n].
    """
    z = (policy_mismatched_logps - reference_mismatched_logps).mean().detach().clamp(min=0)
    wanted = chosen_weight * (1 - sigmoid(beta * ((policy_chosen_logps - reference_chosen_logps) - z)))
    unwanted = rejected_weight * (1 - sigmoid(beta * (z - (policy_rejected_logps - reference_rejected_logps))))
    return (wanted + unwanted) / 2


def orpo(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, beta: float) -> Tensor:
    """Odds ratio preference optimisation (Hong et al. 2024, Eqs. 6, 7): ``-log p + beta * -log sigma(log odds ratio)``.

    Both per token, p the chosen answer's alone; the published code takes the first term on the prompt as well.
    """
    logps = torch.stack((policy_chosen_logps, policy_rejected_logps))
    logps = logps.clamp(max=-torch.finfo(logps.dtype).eps)  # p is kept from 1, where the odds are infinite
    chosen, rejected = logps - torch.log(-torch.expm1(logps))  # log(p / (1 - p))
    return -policy_chosen_logps - beta * logsigmoid(chosen - rejected)


@dataclass(frozen=True)
class Loss:
    """What is learned of a forest: "sft", the answers' cross-entropy, or a preference loss and its constants."""

    name: Literal["sft", "dpo", "ipo", "simpo", "kto", "orpo"] = "sft"
    beta: float = 0.1
    gamma: float = 0.0  # SimPO's margin
    chosen_weight: float = 1.0  # KTO's, as the next
    rejected_weight: float = 1.0

    @property
    def answers_each(self) -> int:
        """Answers to each prompt: one to learn; else chosen and rejected; and for KTO an answer to another prompt."""
        return {"sft": 1, "kto": 3}.get(self.name, 2)

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with the one that training started from."""
        return self.name in ("dpo", "ipo", "kto")

    def items(self, forest: Packed) -> float:
        """What an optimiser step's loss is averaged over: target tokens; pairs; for KTO half of the distinct answers."""
        if self.name == "kto":
            return sum(map(sum, distinct_shares(forest, self.answers_each))) / 2
        return len(forest.targets) if self.name == "sft" else forest.answers // self.answers_each

    def __call__(self, logps: Tensor, forest: Packed, reference: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(sum of the losses, metrics [pairs] by trl's names); logps and reference are [answers], the latter or [0]."""
        if self.name == "sft":
            return -logps.sum(), {}
        lengths = torch.bincount(torch.tensor(forest.completion_index, device=logps.device)).view(-1, self.answers_each)
        logps = logps.view(-1, self.answers_each)
        if not self.has_reference:
            chosen, rejected = (logps / lengths).unbind(1)
            simple = self.name == "simpo"
            one = simpo(chosen, rejected, self.beta, self.gamma) if simple else orpo(chosen, rejected, self.beta)
            return one.sum(), {}
        reference = reference.to(logps.device).view(-1, self.answers_each)
        chosen, rejected, *_ = (self.beta * (logps - reference).detach()).unbind(1)
        metrics = {"rewards/chosen": chosen, "rewards/rejected": rejected}
        metrics |= {"rewards/accuracies": (chosen > rejected).float(), "rewards/margins": chosen - rejected}
        if self.name == "ipo":
            logps, reference = logps / lengths, reference / lengths
        four = (logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1])
        if self.name == "kto":
            shares = torch.tensor(distinct_shares(forest, self.answers_each), device=logps.device)
            weights = (shares * torch.tensor((self.chosen_weight, self.rejected_weight), device=logps.device)).unbind(1)
            return kto(*four, logps[:, 2], reference[:, 2], self.beta, *weights).sum(), metrics
        return {"dpo": dpo, "ipo": ipo}[self.name](*four, self.beta).sum(), metrics


def distinct_shares(forest: Packed, answers_each: int) -> list[tuple[float, float]]:
    """For each pair one over how often its chosen, its rejected answer stands on its side: KTO learns from each once."""
    answers: list[list[tuple[int, int]]] = [[] for _ in range(forest.answers)]
    for owner, place, token in zip(forest.completion_index, forest.predict_positions, forest.targets, strict=True):
        answers[owner].append((place, token))
    sides = [[tuple(answer) for answer in answers[side::answers_each]] for side in (0, 1)]
    chosen, rejected = map(Counter, sides)
    return [(1 / chosen[one], 1 / rejected[other]) for one, other in zip(*sides, strict=True)]
