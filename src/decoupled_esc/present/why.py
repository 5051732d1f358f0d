"""What chapter 19 shows of its studies: tables, and the words of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from decoupled_esc.evaluate import STRATEGY_METRICS
from decoupled_esc.evaluate.acceptable import Order
from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.evaluate.decoding import Calibration
from decoupled_esc.present.tables import format_estimate

NEITHER = "neither"


def excludes_zero(estimate: Estimate) -> bool:
    """Whether the 95% interval lies on one side of 0; without an interval it does not."""
    return estimate.low is not None and (estimate.low > 0 or estimate.high < 0)


def carriers(effects: Mapping[str, Mapping[str, Estimate]], metric: str, names: Mapping[str, str]) -> str:
    """Which of the rows ``names`` (row -> words for it) have an effect on ``metric`` whose interval excludes 0."""
    found = [words for row, words in names.items() if excludes_zero(effects[row][metric])]
    return " and ".join(found) or NEITHER


def direction(estimate: Estimate, up: str, down: str, unclear: str) -> str:
    """``up`` or ``down`` where the interval excludes 0, else ``unclear``."""
    return unclear if not excludes_zero(estimate) else up if estimate.value > 0 else down
