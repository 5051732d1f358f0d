"""What ``bench/`` measured: read from ``results/bench``, never computed here."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "results" / "bench"


def load(name: str) -> dict:
    """``{"provenance", "measurements", ...}`` as ``bench/<name>.py`` wrote it.  Raises FileNotFoundError naming the remedy."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"results/bench/{path.name} is missing. Run python bench/{name}.py")
    return json.loads(path.read_text(encoding="utf-8"))


def bias_by_rate(profile: str, role: str) -> tuple[float, dict[float, float]]:
    """B of sampled strategies on validation turns after SFT, and after DPO at each learning rate tried, smallest first.

    ``role``: "planner" or "vanilla" (the coupled model); read from the search of ``profile``, another than laptop.
    """
    tried = [entry for entry in load(f"preference_search-{profile}") if entry["role"] == role]
    key = "B, drawn" if role == "planner" else "B"
    before = next(entry["before"][key] for entry in tried if "before" in entry)
    return before, {
        entry["learning_rate"]: entry["after"][key] for entry in sorted(tried, key=lambda one: one["learning_rate"])
    }


def ratio(measurements: list[dict], contender: str, **case) -> float:
    """How many times as long ``contender`` took as "packed" for the same ``case`` (group, task, size).

    Raises KeyError where either was not measured, and ValueError where they did not train on the same number of turns.
    """
    one, other = _find(measurements, contender, case), _find(measurements, "packed", case)
    if one["turns"] != other["turns"]:
        raise ValueError(f"{case}: {one['turns']} turns against {other['turns']}")
    return one["seconds"] / other["seconds"]


def _find(measurements: list[dict], contender: str, case: dict) -> dict:
    for row in measurements:
        if row["contender"] == contender and case.items() <= row.items():
            return row
    raise KeyError(f"{contender} {case}")
