"""The preference losses by hand, and by what must hold of each; test_trainers has trl's."""

from math import exp, log, log1p

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turn_trees import Example, Loss, pack
from turn_trees.losses import dpo, ipo, kto, orpo, simpo

torch.set_num_threads(1)

betas = st.floats(0.01, 0.2)
weights = st.floats(0.1, 3)


@st.composite
def logps(draw, columns: int, least: float = -100.0, size: int | None = None) -> list[torch.Tensor]:
    """``columns`` float64 tensors [n] of log-probabilities, n the same for all."""
    n = size or draw(st.integers(1, 4))
    one = st.floats(least, 0, allow_subnormal=False)
    return [torch.tensor(draw(st.lists(one, min_size=n, max_size=n)), dtype=torch.float64) for _ in range(columns)]


def near(value: torch.Tensor, expected, tolerance: float = 1e-9) -> bool:
    expected = torch.as_tensor(expected, dtype=value.dtype)
    assert value.shape == expected.shape
    return torch.allclose(value, expected, rtol=tolerance, atol=tolerance)


# How each loss is called with chosen and rejected alone, the rest held fixed, for the properties that all share.
LOSSES = {
    "dpo": lambda c, r: dpo(c, r, torch.full_like(c, -40.0), torch.full_like(r, -50.0), 0.1),
    "ipo": lambda c, r: ipo(c, r, torch.full_like(c, -2.0), torch.full_like(r, -3.0), 0.2),
    "simpo": lambda c, r: simpo(c, r, 2.0, 0.5),
    "kto": lambda c, r: kto(
        c, r, torch.full_like(c, -40.0), torch.full_like(r, -50.0), torch.full_like(c, -9.0), torch.full_like(c, -10.0),
        0.1, 1.0, 2.0,
    ),
    "orpo": lambda c, r: orpo(c, r, 0.3),
}  # fmt: skip
EACH = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


# By hand ------------------------------------------------------------------------------------------------------------


def one(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor([number], dtype=torch.float64) for number in numbers]


def test_dpo_by_hand():
    # log-ratios +3 and -2
    assert near(dpo(*one(-10, -20, -13, -18), 0.2), [log1p(exp(-1.0))])


def test_ipo_by_hand():
    # log-ratios +1 and -0.5; target 1 / 0.5
    assert near(ipo(*one(-1, -2.5, -2, -2), 0.25), [0.25])


def test_simpo_by_hand():
    # 2 * 1.5 - 1
    assert near(simpo(*one(-1, -2.5), 2.0, 1.0), [log1p(exp(-2.0))])


def test_kto_by_hand():
    # log-ratios +3 and -2; z = 1: 1 - sigma(0.5 * 2) and 1 - sigma(0.5 * 3)
    expected = (1.5 / (1 + exp(1.0)) + 0.5 / (1 + exp(1.5))) / 2
    assert near(kto(*one(-10, -20, -13, -18, -30, -31), 0.5, 1.5, 0.5), [expected])


def test_orpo_by_hand():
    # odds 4 and 1/4: log sigma(log 16) = log(16 / 17)
    assert near(orpo(*one(log(0.8), log(0.2)), 0.5), [-log(0.8) - 0.5 * log(16 / 17)])


# What holds of every one --------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_n_pairs_in_n_losses_out(loss, n, dtype):
    generator = torch.Generator().manual_seed(n)
    chosen, rejected = (-10 * torch.rand(n, generator=generator, dtype=dtype) for _ in range(2))
    made = loss(chosen, rejected)
    assert made.shape == (n,) and made.dtype == dtype and (made >= 0).all()
    # Each of its own pair alone: here all mismatched answers are alike, so that z is the same.
    apart = [loss(chosen[i : i + 1], rejected[i : i + 1]) for i in range(n)]
    assert near(made, torch.cat(apart) if apart else [], 1e-6)


@EACH
@given(pair=logps(2))
def test_a_step_downhill_raises_the_chosen_and_lowers_the_rejected(loss, pair):
    chosen, rejected = (column.requires_grad_() for column in pair)
    up, down = torch.autograd.grad(loss(chosen, rejected).sum(), (chosen, rejected))
    assert up.isfinite().all() and down.isfinite().all()
    if loss is LOSSES["ipo"]:  # which draws to its target from either side
        beyond = (chosen.detach() + 2) - (rejected.detach() + 3) > 1 / (2 * 0.2)
        up, down = torch.where(beyond, -up, up), torch.where(beyond, -down, down)
    assert (up <= 0).all() and (down >= 0).all()


@EACH
def test_the_gradient_is_there_where_it_matters(loss):
    chosen, rejected = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (-2.0, -1.5))
    up, down = torch.autograd.grad(loss(chosen, rejected).sum(), (chosen, rejected))
    assert up < -1e-4 and down > 1e-4
    assert torch.autograd.gradcheck(loss, (chosen, rejected))


# DPO ----------------------------------------------------------------------------------------------------------------


@given(logps(2, least=-1000), betas)
def test_dpo_is_ln_2_at_the_reference(pair, beta):
    assert near(dpo(*pair, *pair, beta), torch.full_like(pair[0], log(2)))


# IPO ----------------------------------------------------------------------------------------------------------------


@given(logps(3, least=-9), betas)
def test_ipo_is_zero_at_its_target_margin_and_nowhere_else(three, beta):
    rejected, reference_chosen, reference_rejected = three
    at = reference_chosen + (rejected - reference_rejected) + 1 / (2 * beta)
    rest = (rejected, reference_chosen, reference_rejected, beta)
    assert near(ipo(at, *rest), torch.zeros_like(at))
    for away in (-2.0, 0.5):
        assert near(ipo(at + away, *rest), torch.full_like(at, away**2))


# SimPO --------------------------------------------------------------------------------------------------------------


@given(logps(2), betas)
def test_simpo_without_gamma_is_dpo_with_an_even_reference(pair, beta):
    none = torch.zeros_like(pair[0])
    assert torch.equal(simpo(*pair, beta, 0.0), dpo(*pair, none, none, beta))


# KTO ----------------------------------------------------------------------------------------------------------------


@given(logps(3), betas, weights, weights)
def test_kto_is_half_of_all_at_the_reference(three, beta, chosen_weight, rejected_weight):
    chosen, rejected, mismatched = three
    loss = kto(chosen, rejected, chosen, rejected, mismatched, mismatched, beta, chosen_weight, rejected_weight)
    assert near(loss, torch.full_like(chosen, 0.5 * (chosen_weight + rejected_weight) / 2))


@given(logps(6), betas)
def test_ktos_point_of_reference_is_a_mean_and_at_least_0(six, beta):
    chosen, rejected, reference_chosen, reference_rejected, mismatched, reference_mismatched = six
    z = max(0.0, (mismatched - reference_mismatched).mean().item())
    none = torch.zeros_like(chosen)
    expected = kto(chosen - z, rejected - z, reference_chosen, reference_rejected, none, none, beta, 1.0, 1.0)
    assert near(kto(*six, beta, 1.0, 1.0), expected)
    below = torch.minimum(mismatched, reference_mismatched)
    assert torch.equal(
        kto(chosen, rejected, reference_chosen, reference_rejected, below, reference_mismatched, beta, 1.0, 1.0),
        kto(chosen, rejected, reference_chosen, reference_rejected, none, none, beta, 1.0, 1.0),
    )


@given(logps(6), betas)
def test_nothing_is_learned_through_ktos_point_of_reference(six, beta):
    chosen, mismatched = six[0].requires_grad_(), six[4].requires_grad_()
    loss = kto(*six, beta, 1.0, 1.0).sum()
    of_chosen, of_mismatched = torch.autograd.grad(loss, (chosen, mismatched), allow_unused=True)
    assert of_chosen is not None and of_mismatched is None


@given(logps(6), betas, weights, weights)
def test_ktos_weights_weigh_an_answer_each(six, beta, chosen_weight, rejected_weight):
    wanted, unwanted = kto(*six, beta, 1.0, 0.0), kto(*six, beta, 0.0, 1.0)
    assert near(kto(*six, beta, chosen_weight, rejected_weight), chosen_weight * wanted + rejected_weight * unwanted)
    # The chosen answer's part doesn't see the rejected one, nor the other way round.
    other = [six[0] - 1, six[1] - 1, *six[2:]]
    assert torch.equal(kto(six[0], other[1], *six[2:], beta, 1.0, 0.0), wanted)
    assert torch.equal(kto(other[0], six[1], *six[2:], beta, 0.0, 1.0), unwanted)


# ORPO ---------------------------------------------------------------------------------------------------------------


@given(logps(2, least=-20), st.floats(0, 2))
def test_orpo_is_the_log_odds_ratio_beside_the_likelihood(pair, beta):
    chosen, rejected = (column.clamp(max=-1e-2) for column in pair)
    odds = [column.exp() / (1 - column.exp()) for column in (chosen, rejected)]
    penalty = torch.log1p(odds[1] / odds[0])  # -log sigma(log of the ratio)
    assert near(orpo(chosen, rejected, beta), -chosen + beta * penalty)
    assert torch.equal(orpo(chosen, rejected, 0.0), -chosen)
    assert near(orpo(chosen, chosen, beta), -chosen + beta * log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_is_finite_where_answers_are_certain_or_impossible(dtype):
    extremes = [0.0, -1e-30, -1e-8, -1e-7, -1e-3, -50.0, -1e4, -1e30]
    chosen, rejected = torch.cartesian_prod(*[torch.tensor(extremes, dtype=dtype)] * 2).T.contiguous()
    chosen.requires_grad_(), rejected.requires_grad_()
    loss = orpo(chosen, rejected, 0.1)
    up, down = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert loss.isfinite().all() and up.isfinite().all() and down.isfinite().all()
    assert (loss >= 0).all() and (up <= -1).all() and (down >= 0).all()


@given(st.lists(st.floats(-6, 1), min_size=2, max_size=2))
def test_orpo_loses_no_digits_near_certainty(powers):
    pair = [torch.tensor([-(10.0**power)]) for power in powers]
    assert near(orpo(*pair, 1.0).double(), orpo(*(column.double() for column in pair), 1.0), 1e-5)


def test_kto_takes_single_answers_each_once():
    """Pairs are split, and an answer that several of them share is one (CSO, appendix G): the mean over distinct answers."""
    turns = [
        Example("t1#0", [1, 2], [[7, 8], [4, 5], [9]]),
        Example("t1#1", [1, 2], [[7, 8], [6], [9]]),
        Example("t2#0", [1, 2, 3], [[7, 8], [5], [9]]),  # the same words after another prompt are another answer
    ]
    loss = Loss("kto", beta=0.3, rejected_weight=0.5)
    policy, reference = [[-2.0, -3.0, -4.0], [-2.0, -5.0, -4.0], [-1.0, -6.0, -4.0]], [[-2.5, -2.0, -4.0]] * 3
    forest = pack(turns)
    total, _ = loss(torch.tensor(policy).flatten(), forest, torch.tensor(reference).flatten())

    def answer(logp, start, sign):
        return 1 - 1 / (1 + exp(-sign * 0.3 * (logp - start)))

    wanted = [answer(-2.0, -2.5, 1), answer(-1.0, -2.5, 1)]
    unwanted = [0.5 * answer(logp, -2.0, -1) for logp in (-3.0, -5.0, -6.0)]
    assert loss.items(forest) == 5 / 2
    assert total.item() / loss.items(forest) == pytest.approx((sum(wanted) + sum(unwanted)) / 5, rel=1e-6)
    # A pair that stands there twice teaches nothing more.
    twice = pack([*turns, Example("t1#2", [1, 2], [[7, 8], [4, 5], [9]])])
    again, of_reference = (torch.tensor([*rows, rows[0]]).flatten() for rows in (policy, reference))
    total, _ = loss(again, twice, of_reference)
    assert total.item() / loss.items(twice) == pytest.approx((sum(wanted) + sum(unwanted)) / 5, rel=1e-6)
