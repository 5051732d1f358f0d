"""What a policy thinks of held-out answers, and how far it has moved from the one it started from."""

from __future__ import annotations

from decoupled_esc.packing import Packed, answer_logps, attention
from decoupled_esc.train.data import Sequences


def held_out_loss(model, sequences: Sequences) -> float:
    """Mean cross-entropy in nats per learned token of ``sequences``, one sequence at a time."""
    import torch

    model.eval()
    with torch.inference_mode():
        total = sum(answer_logps(model, packed).double().sum().item() for packed in sequences.packed)
    return -total / sequences.target_tokens


def divergence(policy, reference, sequences: Sequences) -> float:
    """Mean KL(policy || reference) in nats per answer token, exact over the vocabulary, along the answers.

    Human references, not samples of the policy, decide where it is taken: it says how differently the two would go on
    from where a human has come so far.  0 where they are the same.
    """
    import torch

    policy.eval()
    reference.eval()
    total = 0.0
    with torch.inference_mode():
        for packed in sequences.packed:
            ours, theirs = (torch.log_softmax(_logits(model, packed).double(), -1) for model in (policy, reference))
            total += (ours.exp() * (ours - theirs)).sum().item()
    return total / sequences.target_tokens


def _logits(model, packed: Packed):
    """[P, vocabulary]: what ``model`` predicts where an answer's tokens are asked for."""
    import torch

    device = model.device
    return model(
        input_ids=torch.tensor([packed.tokens], device=device),
        position_ids=torch.tensor([packed.depths], device=device),
        logits_to_keep=torch.tensor(packed.predict_positions, device=device),
        use_cache=False,
        **attention(packed.depths, model),
    ).logits[0]
