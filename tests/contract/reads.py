"""Which keys of `params.yaml` a stage reads, found in the source without running it.

    python -m tests.contract.reads sft       # prints the keys

A name is followed where its type is written: an argument or a field annotated with a section (`prompt: Prompt`), the
result of `read_params`, and what is assigned from either. Only functions that the stage can reach count, so a helper
for another stage in a shared file does not.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from stages.common.params import Params
from tests.contract.imports import PACKAGE, ROOT, parse, runtime_nodes

# a top-level function or class of a file; without a name, the file's other statements
Unit = tuple[Path, str]
PARAMS_FILE = ROOT / PACKAGE / "common" / "params.py"


def keys_read_by(script: Path) -> set[str]:
    """Dotted keys, such as `sft.epsilon`, that `script` and what it reaches read."""
    seen: set[Unit] = set()
    ahead: list[Unit] = [(script, name) for name in ("", *definitions(script))]
    while ahead:
        unit = ahead.pop()
        if unit not in seen and unit[0] != PARAMS_FILE:
            seen.add(unit)
            ahead += _references(unit)
    taken = set().union(*(_sections_taken(unit) for unit in seen))
    return set().union(*(_reads(unit, taken) for unit in seen))


def keys_of(section: type[BaseModel] = Params, prefix: str = "") -> set[str]:
    """Every key below a section, dotted."""
    found = set()
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        found |= keys_of(field.annotation, f"{key}.") if _is_section(field.annotation) else {key}
    return found


@cache
def definitions(module: Path) -> dict[str, list[ast.stmt]]:
    """The statements of each top-level function and class, and of all else under the empty name."""
    units: dict[str, list[ast.stmt]] = {"": []}
    for node in parse(module).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            units[node.name] = [node]
        else:
            units[""].append(node)
    return units


@cache
def _imports(module: Path) -> dict[str, Unit]:
    """What each imported name of ours stands for: (file, definition), or (file, "") for a module."""
    names = {}
    for node in runtime_nodes(parse(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            for alias in node.names:
                below = _file(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = (below, "") if below else (_file(node.module), alias.name)
    return names


def _file(name: str) -> Path | None:
    place = ROOT.joinpath(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)


def _references(unit: Unit) -> Iterator[Unit]:
    """Units that a unit names: its own file's, imported ones, and those of an imported module."""
    module, name = unit
    imports, own = _imports(module), definitions(module)
    yield module, ""
    for node in _nodes(unit):
        if isinstance(node, ast.Name):
            if node.id in imports:
                yield _resolved(imports[node.id])
            elif node.id in own and node.id != name:
                yield module, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imports:
            file, inside = imports[node.value.id]
            if not inside:
                yield _resolved((file, node.attr))


def _resolved(unit: Unit) -> Unit:
    """Where a name is defined: a constant is one of the file's other statements, and imports are followed."""
    file, name = unit
    if name in definitions(file):
        return unit
    onward = _imports(file).get(name)
    return _resolved(onward) if onward and onward[1] else (file, "")


def _sections_taken(unit: Unit) -> set[str]:
    """Prefixes of the sections that a unit takes out of a larger one, as in `params.sft`."""
    names = _named_sections(unit)
    nodes = [node for node in _nodes(unit) if isinstance(node, ast.Attribute)]
    return {prefix for node in nodes if len(_types(node.value, names)) == 1 for _, prefix in _types(node, names)}


def _reads(unit: Unit, taken: set[str]) -> set[str]:
    """Keys read in a unit; of an argument that is `Sft | Dpo`, those of the one that the stage passes."""
    names = _named_sections(unit)
    keys = set()
    for node in _nodes(unit):
        if isinstance(node, ast.Attribute):
            types = _types(node.value, names)
            for section, prefix in types:
                if len(types) > 1 and prefix not in taken:
                    continue
                if node.attr.startswith("model_dump"):
                    keys |= keys_of(section, prefix)
                elif (field := section.model_fields.get(node.attr)) and not _is_section(field.annotation):
                    keys.add(prefix + (field.alias or node.attr))
    return keys


def _named_sections(unit: Unit) -> dict[str, list]:
    """Sections by the source text of what holds them: an argument, a local name, `self.prompt`."""
    names: dict[str, list] = {}
    nodes = list(_nodes(unit))
    for node in nodes:
        if isinstance(node, ast.arg) and node.annotation:
            names[node.arg] = _annotated(node.annotation)
        elif isinstance(node, ast.AnnAssign):
            for place in (ast.unparse(node.target), f"self.{ast.unparse(node.target)}"):
                names[place] = _annotated(node.annotation)
    names = {place: types for place, types in names.items() if types}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=False))
                for place, value in pairs:
                    if types := _types(value, names):
                        names[ast.unparse(place)] = types
    return names


def _types(node: ast.expr, names: dict[str, list]) -> list:
    """The sections, with the prefix of their keys, that an expression may be."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("read_params"):
        return [(Params, "")]
    if isinstance(node, ast.Attribute) and (owners := _types(node.value, names)):
        fields = [(owner.model_fields.get(node.attr), prefix) for owner, prefix in owners]
        return [(f.annotation, f"{prefix}{f.alias or node.attr}.") for f, prefix in fields
                if f and _is_section(f.annotation)]
    return names.get(ast.unparse(node), []) if isinstance(node, ast.Name | ast.Attribute) else []


def _annotated(node: ast.expr) -> list:
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)
    names = (part.strip().rpartition(".")[2] for part in text.split("|"))
    return [_SECTIONS[name] for name in names if name in _SECTIONS]


def _nodes(unit: Unit) -> Iterator[ast.AST]:
    for statement in definitions(unit[0])[unit[1]]:
        yield statement
        yield from runtime_nodes(statement)


def _is_section(annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sections(section: type[BaseModel] = Params, prefix: str = "") -> dict[str, tuple[type[BaseModel], str]]:
    found = {section.__name__: (section, prefix)}
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            found |= _sections(field.annotation, f"{prefix}{field.alias or name}.")
    return found


_SECTIONS = _sections()


def main() -> None:
    for stage in sys.argv[1:]:
        print("\n".join(sorted(keys_read_by(ROOT / PACKAGE / f"{stage}.py"))))


if __name__ == "__main__":
    main()
