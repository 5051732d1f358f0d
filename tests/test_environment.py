"""environment.yml, pyproject.toml and requirements.lock ask for the same packages."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from decoupled_esc.experiments.run import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PIP = next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
LOCK = {
    canonicalize_name(requirement.name): requirement
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}
TREES = tomllib.loads((ROOT / "packages/turn_trees/pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *TREES["dependencies"], *TREES["optional-dependencies"]["test"]])
def test_the_lock_pins_what_the_project_asks_for(text):
    asked = Requirement(text)
    if asked.name == TREES["name"]:  # comes from this repository
        assert asked.specifier.contains(TREES["version"])
        return
    (pin,) = LOCK[canonicalize_name(asked.name)].specifier
    assert pin.operator == "==" and asked.specifier.contains(pin.version, prereleases=True)


def test_the_gpu_box_has_the_lock_and_the_extras_with_the_projects_pins():
    assert "--requirement requirements.lock" in PIP and "--editable ." in PIP and "--editable packages/turn_trees" in PIP
    own = {canonicalize_name(r.name): r for text in PIP if not text.startswith("--") for r in [Requirement(text)]}
    for extra in ("vllm", "deepspeed", "slurm"):
        for asked in EXTRAS[extra]:
            assert own.pop(canonicalize_name(asked.name)).specifier == asked.specifier, asked.name
    assert not own, "packages that pyproject.toml does not know"


def test_python_is_one_that_the_project_takes():
    python = next(text for text in CONDA["dependencies"] if isinstance(text, str) and text.startswith("python="))
    assert re.fullmatch(r">=3\.11", PROJECT["requires-python"]) and python == "python=3.11"


def test_turn_trees_stays_small_and_knows_nothing_of_the_library():
    files = sorted((ROOT / "packages/turn_trees/src").rglob("*.py"))
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 700
    assert files and all("decoupled_esc" not in file.read_text(encoding="utf-8") for file in files)


def test_vllm_stays_out_of_the_default_install():
    assert not {"vllm", "deepspeed"} & set(LOCK) and not {"vllm", "deepspeed"} & {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
