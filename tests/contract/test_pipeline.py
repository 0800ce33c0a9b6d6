"""Both pipelines, ours and the baselines', say of every stage exactly what it runs, reads and writes."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.common.params import Section, keys
from stages.params import Params
from stages.studies.definitions import LANGUAGE_MODELS
from tests.contract.imports import PACKAGE, ROOT, imported_by, modules_of, rooms_of
from tests.contract.matrices import combinations, filled

BASELINES = f"{PACKAGE}/baselines/dvc.yaml"
SETTINGS = f"{PACKAGE}/baselines/params.yaml"


def stages_of(path: str) -> dict[str, dict]:
    return YAML(typ="safe", pure=True).load((ROOT / path).read_text(encoding="utf-8"))["stages"]


MAIN = stages_of("dvc.yaml")
STAGES = MAIN | {f"baselines:{name}": stage for name, stage in stages_of(BASELINES).items()}
WRITTEN = ("outs", "metrics", "plots")
SCRIPTS = sorted((ROOT / PACKAGE).glob("*.py"))
# an API is asked by a command of its own: what it answers hangs on an account and a day
BASELINE_SCRIPTS = {path for path in (ROOT / PACKAGE / "baselines").glob("**/*.py")
                    if "STAGE = " in path.read_text("utf-8") and path.parent.name != "api"}

# stages that only measure, and code that only they or people's commands need
MEASURING = ("evaluate", "reference", "card")
MEASURES = tuple(f"{PACKAGE}/{name}" for name in ("evaluate.py", "reference.py", "ranking/", "reports/", "studies/"))

# which rooms a room may import besides itself
BELOW = {
    "common": set(),
    "hooks": set(),
    "events": {"common"},
    "windows": {"common"},
    "prompts": {"common", "windows"},
    "model": {"common", "prompts"},
    "training": {"common", "prompts", "model"},
    "past": {"common", "windows", "training"},
    "metrics": {"common", "windows"},
    "serving": {"common", "params", "events", "windows", "prompts", "model", "past", "metrics"},
    "baselines": {"common", "windows", "prompts", "model", "training"},
    "baselines/research": {"common", "params", "events", "windows", "past", "metrics", "studies"},
    "pairs": {"common"},
    "params": {"common", "pairs", "events", "windows", "prompts", "model", "training", "past", "metrics"},
    "benchmarks": {"common", "params", "events", "prompts", "model", "training", "serving"},
    "studies": {"common", "params", "hooks", "metrics"},
    "reports": {"common", "params", "metrics", "studies"},
    "inspection": {"common", "params", "events", "windows"},
    "commands": {"common", "params", "events", "inspection", "prompts", "model", "metrics", "serving", "benchmarks",
                 "studies", "reports"},
}

# the oracle is read for research as the stage reads it
SCRIPTS_READ = {"baselines/research": {"reference.py"}}


def script_of(stage: str) -> Path:
    module = re.search(rf"-m ({PACKAGE}[.\w]+)", STAGES[stage]["cmd"]).group(1)
    return ROOT / f"{module.replace('.', '/')}.py"


def params_of(stage: str) -> type[Section]:
    """The sections of params.yaml that a stage reads: it has no others."""
    module = import_module(re.search(rf"-m ({PACKAGE}[.\w]+)", STAGES[stage]["cmd"]).group(1))
    return module.STAGE.params


def paths(entries: list) -> list[str]:
    """The paths of a list of outs, metrics or plots, which may carry settings."""
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def keys_listed(stage: str) -> list[str]:
    """Keys of params.yaml among a stage's params."""
    return [entry for entry in STAGES[stage].get("params", []) if isinstance(entry, str)]


@pytest.mark.parametrize("stage", STAGES)
def test_rooms_in_deps_hold_all_that_the_stage_imports(stage):
    listed = [dep for dep in STAGES[stage]["deps"] if dep.startswith(f"{PACKAGE}/")]
    script = script_of(stage).relative_to(ROOT / PACKAGE).with_suffix("")
    assert listed == rooms_of(script_of(stage)), f"python -m tests.contract.imports {script}"


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_that_the_stage_uses(stage):
    assert set(keys_listed(stage)) == set(keys(params_of(stage)))


@pytest.mark.parametrize("stage", STAGES)
def test_paths_on_the_command_line_are_deps_or_outs(stage):
    command = STAGES[stage]["cmd"].split()
    given = {word.rstrip("/") for word in command if "/" in word}
    data = {dep for dep in STAGES[stage]["deps"] if not dep.startswith((f"{PACKAGE}/", "${source.path}"))}
    given -= {SETTINGS}  # its sections are params
    written = {path for kind in WRITTEN for path in paths(STAGES[stage].get(kind, []))}
    # a folder stands for the files in it that DVC tracks one by one
    folders = {path for path in given if any(out.startswith(f"{path}/") for out in written)}
    assert {path for path in written if path not in given and str(Path(path).parent) not in folders} == set()
    unlisted = {path for path in given - written - folders if path not in data and str(Path(path).parent) not in data}
    assert unlisted == set()
    # params say which files of a folder are read
    of_folders = {dep for dep in data if any(dep.startswith(f"{path}/") for path in given)}
    unread = {dep for dep in data - of_folders if not any(path == dep or path.startswith(f"{dep}/") for path in given)}
    assert unread == set()


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_and_histories_are_in_git_and_nothing_turns_the_run_cache_off(stage):
    described = STAGES[stage]
    assert described["desc"].endswith(".")
    for kind in WRITTEN:
        for entry in described.get(kind, []):
            # an uncached file among the outs would turn the run cache off, among metrics and plots it does not
            if kind == "outs":
                assert isinstance(entry, str)
            else:
                [(path, settings)] = entry.items()
                assert path.startswith("metrics/") and settings["cache"] is False
    assert not {"always_changed", "frozen"} & described.keys()
    assert "${" not in described["cmd"].replace("${item.", "").replace("${prompt.prior}", "")


def test_every_script_with_a_name_of_a_stage_is_one():
    assert {script_of(stage) for stage in MAIN} == set(SCRIPTS) - {ROOT / PACKAGE / "__init__.py"}
    assert {script.stem for script in SCRIPTS} & sys.stdlib_module_names == set()


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {*MEASURING, "baselines:evaluate"}))
def test_a_change_of_what_only_measures_trains_nothing_again(stage):
    deps = set(STAGES[stage]["deps"])
    assert not [dep for dep in deps if dep.startswith(MEASURES)]
    assert not deps & {out for each in MEASURING for kind in WRITTEN for out in paths(MAIN[each].get(kind, []))}


@pytest.mark.parametrize("stage", STAGES)
def test_a_study_or_a_recipe_of_ones_own_runs_nothing_again(stage):
    assert not {"data", f"{PACKAGE}/studies", f"{PACKAGE}/hooks"} & set(STAGES[stage]["deps"])


def test_imports_run_one_way():
    for module in sorted((ROOT / PACKAGE).rglob("*.py")):
        own = module.relative_to(ROOT / PACKAGE).parts
        imported = {path.relative_to(ROOT / PACKAGE).parts for path in imported_by(module)}
        packages = {parts[0] for parts in imported if len(parts) > 1}
        scripts = {parts[0] for parts in imported if len(parts) == 1} - {"__init__.py"}
        room = "/".join(own[:2]) if "/".join(own[:2]) in BELOW else own[0]
        assert scripts - SCRIPTS_READ.get(room, set()) == set(), f"{module}: stage scripts import no one another"
        if len(own) > 1:
            assert packages - BELOW[room] - {own[0]} == set(), f"{module}: imports upwards"


def test_rooms_of_baselines_import_one_way():
    order = ["fitting", "sequential", "language", "systems", "research"]
    for module in sorted((ROOT / PACKAGE / "baselines").rglob("*.py")):
        own, *_ = module.relative_to(ROOT / PACKAGE / "baselines").parts
        rooms = {path.parent.name for path in imported_by(module) if ROOT / PACKAGE / "baselines" in path.parents}
        above = order[order.index(own) + 1 :] if own in order else ["sequential", *order[2:]]
        assert not rooms & set(above), f"{module}: imports upwards"


def test_every_section_of_params_is_used_by_some_stage():
    assert set().union(*(keys_listed(stage) for stage in MAIN)) == set(keys(Params))


def test_every_baseline_is_fitted_and_evaluated():
    stages = dict(stages_of(BASELINES))
    evaluate = stages.pop("evaluate")
    assert {script_of(f"baselines:{name}") for name in stages} == BASELINE_SCRIPTS
    assert stages.pop("timing")["matrix"] == {"model": list(LANGUAGE_MODELS)}, "ours are timed as they are"
    written = {Path(filled(out, item)).stem for stage in stages.values() for item in combinations(stage["matrix"])
               for out in paths(stage["outs"]) if out.startswith("data/counts/")}
    assert written == set(evaluate["matrix"]["name"])
    for name, stage in stages.items():
        [sections] = [entry[SETTINGS] for entry in stage["params"] if isinstance(entry, dict)]
        script = script_of(f"baselines:{name}")
        assert stage["wdir"] == "../.." and sections[:2] == ["budget", script.stem]
        asked = re.findall(r'(?:tuned\(task, |\.settings\(|section, kind\b.* = )"(\w+)"', script.read_text("utf-8"))
        assert set(asked) <= set(sections) and (script.stem in asked or script.stem == "sasrec")
        names = ROOT / PACKAGE / "baselines" / "language" / "names.py"
        assert ("names" in sections) == (names in modules_of(script)), "what encodes the names is a setting"
        long = name == f"{script.stem}_long"
        assert ("long" in sections, "--long" in stage["cmd"].split()) == (long, long), "a setting of long rows alone"


def test_the_default_run_knows_no_baseline():
    made = {out for stage in stages_of(BASELINES).values() for kind in WRITTEN for out in paths(stage.get(kind, []))}
    assert not [dep for stage in MAIN.values() for dep in stage["deps"] if dep in made]
    trivial = {f"{PACKAGE}/baselines/trivial.py"}
    assert not [dep for stage in MAIN.values() for dep in stage["deps"] if "/baselines/" in dep and dep not in trivial]
