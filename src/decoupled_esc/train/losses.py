"""Preference losses as pure functions of log-probabilities.

Every tensor has one entry a pair, shape [n]; every loss comes back with one entry a pair, shape [n], not averaged.
``policy_*_logps`` are the policy's log-probabilities of the answers; ``reference_*_logps`` those of the frozen policy
that training started from.  Losses that say "per token" take log-probabilities divided by the answer's length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, Eq. 7): ``-log sigma(beta * margin of the log-ratios)``.

    ln 2 where the policy is the reference.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(
        beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    )


def ipo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Identity preference optimisation (Azar et al. 2023, Eq. 17): ``(margin of the log-ratios - 1 / (2 beta))^2``.

    All four per token: with sums the target margin would be spread over answers of any length.  trl and LLaMA-Factory,
    with which CSO was trained, do the same.
    """
    margin = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return (margin - 1 / (2 * beta)) ** 2


def simpo(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation (Meng et al. 2024, Eq. 6): ``-log sigma(beta * margin - gamma)``, both per token.

    It knows no reference, and no supervised term is added.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps) - gamma)


def kto(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    policy_mismatched_logps: Tensor,
    reference_mismatched_logps: Tensor,
    beta: float,
    chosen_weight: float | Tensor,
    rejected_weight: float | Tensor,
) -> Tensor:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, Eqs. 7 and 8); a pair is a wanted and an unwanted answer.

    ``w_chosen * (1 - sigma(beta (r_chosen - z))) + w_rejected * (1 - sigma(beta (z - r_rejected)))``, where the
    reference point ``z``, an estimate of the divergence from the reference, is the mean log-ratio of answers that
    belong to other prompts (``*_mismatched_logps``), at least 0 and without gradient.  Half the sum, so that the mean
    over pairs is the mean over answers.  A weight may be a tensor [n], for answers that several pairs share.
    """
    from torch import sigmoid

    z = (policy_mismatched_logps - reference_mismatched_logps).mean().detach().clamp(min=0)
    wanted = chosen_weight * (1 - sigmoid(beta * ((policy_chosen_logps - reference_chosen_logps) - z)))
    unwanted = rejected_weight * (1 - sigmoid(beta * (z - (policy_rejected_logps - reference_rejected_logps))))
    return (wanted + unwanted) / 2


def orpo(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, beta: float) -> Tensor:
    """Odds ratio preference optimisation (Hong et al. 2024, Eqs. 6, 7): ``-log p + beta * -log sigma(log odds ratio)``.

    Both per token, p the chosen answer's.  The supervised term is taken on the answer alone, as everywhere in this
    book; the published code takes it on the prompt as well.
    """
    from torch.nn.functional import logsigmoid

    odds = _log_odds(policy_chosen_logps) - _log_odds(policy_rejected_logps)
    return -policy_chosen_logps - beta * logsigmoid(odds)


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)); p is kept from 1, where the odds are infinite."""
    import torch

    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))
