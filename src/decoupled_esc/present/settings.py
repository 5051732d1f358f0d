"""The papers' hyperparameters beside the profiles of their backbones: *taken from the paper*, or *changed* and why."""

from collections.abc import Callable
from functools import cache

import pandas as pd

from decoupled_esc.experiments.profiles import Profile, load_profile
from decoupled_esc.present.paper import Status, load_tables
from decoupled_esc.present.tables import LINE

ROLES = {"vanilla-dpo": "vanilla", "sp-dpo": "planner", "rg-dpo": "generator"}


def _dpo(row: str, column: str) -> tuple[str, tuple[str, ...]]:
    """Table 7 of DecoupledESC."""
    backbone, method = row.split("/")
    key = {"lr": "training.learning_rate", "beta": "loss.beta"}[column]
    return backbone, (f"preference.{ROLES[method]}.{key}",)


def _training(row: str, column: str) -> tuple[str, tuple[str, ...]]:
    """Table 13 of CSO; the rate of CSO stands with its loss, too."""
    backbone, tuning, method = row.split("/")
    key = {"epochs": "epochs", "batch": "batch_size", "lr": "learning_rate"}[column]
    keys = {"sft": (f"cso.sft.{key}",), "cso": (f"cso.training.{key}",)}[method]
    return _tuned(backbone, tuning), keys + ("cso.losses.dpo.learning_rate",) * ((method, column) == ("cso", "lr"))


def _losses(row: str, column: str) -> tuple[str, tuple[str, ...]]:
    """Table 14 of CSO."""
    backbone, tuning, loss = row.split("/")
    return _tuned(backbone, tuning), (f"cso.losses.{loss}.loss.{column.replace('-', '_')}",)


def _tuned(backbone: str, tuning: str) -> str:
    return {"lora": backbone, "full": f"{backbone}-full"}[tuning]


KEYS: dict[str, Callable[[str, str], tuple[str, tuple[str, ...]]]] = {
    "decoupledesc/table-7": _dpo,
    "cso/table-13": _training,
    "cso/table-14": _losses,
}
"""Table of settings -> (profile, its keys) that a cell (row, column) stands for."""

CHANGED: dict[str, str] = {
    "cso.sft.batch_size": "a step takes whole trees, whose preferred turns make a dialogue, and the paper's takes turns",
    "cso.training.batch_size": "a step takes whole trees, each with many pairs, and the paper's takes pairs",
}
"""Key of the profiles -> why it is another number than the paper's."""


def value(profile: Profile, key: str) -> float:
    """What ``profile`` says at ``key``, a path with dots.  Raises AttributeError or KeyError where it has no such key."""
    found = profile
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def statuses(load: Callable[[str], Profile] = load_profile) -> pd.DataFrame:
    """One line (`tables.LINE`) for every setting that the papers print, nothing of which is a measurement.

    Raises ValueError for one that a profile has changed and ``CHANGED`` gives no reason for.
    """
    load, lines = cache(load), []
    for table, keys_of in KEYS.items():
        for row in load_tables()[table].rows:
            for column, printed in row.values.items():
                if printed is not None:
                    name, keys = keys_of(row.key, column)
                    status, why = _compared(printed, name, {key: value(load(name), key) for key in keys})
                    line = {"table": table, "row": row.key, "column": column, "paper": float(printed)}
                    lines.append(line | {"status": str(status), "why": why, "source": f"{name}: {', '.join(keys)}"})
    return pd.DataFrame(lines).reindex(columns=LINE).astype(dict.fromkeys(["measured", "low", "high"], float))


def _compared(printed: float, profile: str, own: dict[str, float]) -> tuple[Status, str]:
    """``own``: key -> its value in ``profile``."""
    other = {key: value for key, value in own.items() if value != printed}
    if not other:
        return Status.FROM_PAPER, f"profile {profile}, {' and '.join(own)}"
    if unexplained := [key for key in other if key not in CHANGED]:
        raise ValueError(
            f"profiles/{profile}.yaml: {unexplained} differ from the paper's {printed:g} for no given reason"
        )
    said = "; ".join(f"{key} is {value:g}: {CHANGED[key]}" for key, value in other.items())
    return Status.CHANGED, f"profile {profile}, {said}"
