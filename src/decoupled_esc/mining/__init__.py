"""Inferential Preference Mining (DecoupledESC, section 4): a model's own mistakes become preference pairs."""

from decoupled_esc.mining.files import Example, PairsError, data_card, examples, read, with_text, write
from decoupled_esc.mining.pairs import (
    FILTERS,
    QUADRANTS,
    ROUTES,
    Mined,
    by_filter,
    of_quadrant,
    response_pairs,
    strategy_pairs,
    vanilla_pairs,
)

__all__ = [
    "FILTERS", "QUADRANTS", "ROUTES", "Example", "Mined", "PairsError", "by_filter", "data_card", "examples",
    "of_quadrant", "read", "response_pairs", "strategy_pairs", "vanilla_pairs", "with_text", "write",
]  # fmt: skip
