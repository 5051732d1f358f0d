"""The published results as an RO-Crate: which step made what, from what, when and with which software.

Process Run Crate 0.5 (Leo et al. 2024) on RO-Crate 1.1.  Everything is read from `results/<profile>/*.json`: an action is a step
with its result, its objects are the results, corpora and start model among the step's fields.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from decoupled_esc.files import write_atomically
from decoupled_esc.publish.site import ROOT

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CRATE = "https://w3id.org/ro/crate/1.1"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
FORMATS = {".json": "application/json", ".jsonl": "application/jsonl"}
STEP = re.compile(r"[A-Z]\w+-[0-9a-f]{16}")
LICENCES = {
    "MIT": ("https://spdx.org/licenses/MIT", "MIT License"),
    "data": ("https://creativecommons.org/licenses/by-nc/4.0/", "CC BY-NC 4.0, the licence of ESConv"),
}


def write_crate(root: Path = ROOT) -> Path:
    """Writes the crate of the repository `root` into its first folder; returns the file."""
    text = json.dumps(crate(root), indent=1, ensure_ascii=False) + "\n"
    write_atomically(root / NAME, text)
    return root / NAME


def crate(root: Path = ROOT) -> dict:
    """The metadata of the repository `root` as JSON-LD.  Raises FileNotFoundError where nothing is published."""
    results = {path: json.loads(path.read_bytes()) for path in sorted((root / "results").glob("*/*.json"))}
    results = {path: found for path, found in results.items() if "step" in found}
    if not results:
        raise FileNotFoundError(f"no result in {root / 'results'}; see decoupled-esc publish")
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    places = {f"{found['step']}-{found['key']}": _place(path, root) for path, found in results.items()}
    entities: dict[str, dict] = {}
    for path, found in results.items():
        for entity in _action(path, found, places, root):
            entities[entity["@id"]] = entities.get(entity["@id"], {}) | entity
    actions = [name for name, entity in entities.items() if entity["@type"] == "CreateAction"]
    parts = [name for name, entity in entities.items() if entity["@type"] in ("File", "Dataset") and name[0] != "#"]
    ends = sorted(entity["endTime"] for entity in entities.values() if "endTime" in entity)
    dataset = {
        "@id": "./", "@type": "Dataset", "name": cited["title"], "description": " ".join(cited["abstract"].split()),
        "datePublished": ends[-1], "license": {"@id": LICENCES["data"][0]}, "author": {"@id": "#contributors"},
        "conformsTo": {"@id": PROFILE}, "hasPart": _ids(parts), "mentions": _ids(actions),
    }  # fmt: skip
    about = [
        {"@id": NAME, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": CRATE}},
        dataset,
        {"@id": PROFILE, "@type": ["CreativeWork", "Profile"], "name": "Process Run Crate", "version": "0.5"},
        {"@id": "#contributors", "@type": "Organization", "name": cited["authors"][0]["name"]},
        *({"@id": id, "@type": "CreativeWork", "name": name} for id, name in LICENCES.values()),
    ]
    return {"@context": [f"{CRATE}/context", TERMS], "@graph": [*about, *entities.values()]}


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _ids(names) -> list[dict]:
    return [{"@id": name} for name in names]


def _action(path: Path, found: Mapping, places: Mapping[str, str], root: Path) -> Iterator[dict]:
    """A step's action, and what it refers to."""
    said, name = found["provenance"], f"{path.parent.name}/{path.stem}"
    files = {"result": path, "rows": path.with_suffix(".jsonl")}
    result = [
        {"@id": _place(one, root), "@type": "File", "name": f"{what} of {name}", "encodingFormat": FORMATS[one.suffix]}
        for what, one in files.items()
        if one.exists()
    ]
    objects = list({one["@id"]: one for one in _objects(found["fields"], places, root)}.values())
    software = list(_software(said))
    hardware = said.get("hardware") or {}
    how = ", ".join(f"{key} {value}" for key, value in hardware.items() if value is not None)
    yield {
        "@id": f"#{path.parent.name}-{found['step']}-{found['key']}", "@type": "CreateAction",
        "name": f"{found['step']} (version {found['version']}): {name}", "instrument": {"@id": software[0]["@id"]},
        "object": _ids(one["@id"] for one in objects), "result": _ids(one["@id"] for one in result), "endTime": said["date"],
        "agent": {"@id": "#contributors"}, "description": f"{said.get('wall_seconds')} seconds on {how or 'an unknown machine'}",
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
    }  # fmt: skip
    yield from [*result, *objects, *software]


def _objects(value, places: Mapping[str, str], root: Path) -> Iterator[dict]:
    """The results, data and start models among a step's fields."""
    match value:
        case str() if STEP.fullmatch(value) and value in places:
            yield {"@id": places[value], "@type": "File", "encodingFormat": FORMATS[Path(places[value]).suffix]}
        case str() if STEP.fullmatch(value):
            yield {"@id": f"#{value}", "@type": "CreativeWork", "name": f"{value}, a result that is not published"}
        case {"kind": str(kind), "name": str(name)} if (root / "data" / name).is_dir():
            yield {"@id": f"data/{name}/", "@type": "Dataset", "name": f"{name}, a base model ({kind})"}
        case {"kind": str(kind), "name": str(name)}:
            yield {"@id": f"#model-{name}", "@type": "CreativeWork", "name": f"{name}, a base model ({kind})"}
        case {"name": str(name), "digest": str(digest)}:
            about = f"{name}, described in data/registry.json"
            yield {"@id": f"#data-{name}-{digest[:16]}", "@type": "CreativeWork", "name": about, "identifier": digest}
        case dict():
            for one in value.values():
                yield from _objects(one, places, root)
        case list():
            for one in value:
                yield from _objects(one, places, root)


def _software(said: Mapping) -> Iterator[dict]:
    """This library at its commit, first; then the packages of that environment."""
    versions = {"decoupled-esc": "unknown"} | (said.get("versions") or {})
    others = [(name, version) for name, version in versions.items() if name != "decoupled-esc"]
    others += [("python", said["python"])] if said.get("python") else []
    commit = said.get("commit") or "unknown"
    yield {
        "@id": f"#decoupled-esc-{versions['decoupled-esc']}-{commit}", "@type": "SoftwareApplication", "name": "decoupled-esc",
        "softwareVersion": f"{versions['decoupled-esc']}, commit {commit}", "license": {"@id": LICENCES["MIT"][0]},
        "softwareRequirements": _ids(f"#{name}-{version}" for name, version in others),
    }  # fmt: skip
    for name, version in others:
        yield {"@id": f"#{name}-{version}", "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
