"""Plain data, such as a row of JSON or a profile, changed at one place for a test."""

import copy
import json
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1] / "profiles"


def put(data, place, value):
    """A deep copy of ``data`` with ``value`` at ``place`` (keys, or joined by dots), or without that key for ``...``."""
    data = inner = copy.deepcopy(data)
    *path, last = place.split(".") if isinstance(place, str) else place
    for key in path:
        inner = inner[int(key) if isinstance(inner, list) else key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return data


def plain(name: str = "smoke") -> dict:
    """A shipped profile."""
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_bytes())
    return {"name": name, **json.loads(json.dumps(data))}  # sections that share an anchor come apart
