"""Which rooms a stage needs, found in the source without running it.

    python -m tests.contract.imports sft     # prints the list for dvc.yaml
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "stages"
SCRIPTS = (PACKAGE, "systems")  # folders of which each file is a stage


def modules_of(script: Path) -> set[Path]:
    """`script` and every file of ours that it imports, through however many others.

    An `__init__.py` that only documents its package changes nothing that a stage makes, and is left out.
    """
    found, ahead = set(), [script]
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            ahead += imported_by(module)
    # the package's own __init__ only lends commands their short names
    return {module for module in found - {ROOT / PACKAGE / "__init__.py"}
            if not (module.name == "__init__.py" and only_documents(module))}


def rooms_of(script: Path) -> list[str]:
    """What a stage lists in its deps: its script, and the folders of all that it imports, none inside another.

    Of a folder of scripts it lists those files alone that it imports: its neighbours are other stages.
    """
    files = {module for module in modules_of(script) if module == script or module.parent.name in SCRIPTS}
    folders = {module.parent for module in modules_of(script) - files}
    outer = {folder for folder in folders if folders.isdisjoint(folder.parents)}
    return sorted(str(path.relative_to(ROOT)) for path in files | outer)


def imported_by(module: Path) -> set[Path]:
    """The files of ours that `module` itself imports, anywhere in it, but not only for a type checker."""
    found = set()
    for node in runtime_nodes(parse(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}:{node.lineno}: a relative import; write it out")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == PACKAGE:
                found |= _files(name)
    return found


def runtime_nodes(tree: ast.AST):
    """Every node of `tree` that is not under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", getattr(node.test, "attr", "")) == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


def only_documents(module: Path) -> bool:
    """Whether `module` holds nothing but a docstring."""
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in parse(module).body)


def parse(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), str(module))


def _files(name: str) -> set[Path]:
    """The file of a dotted name, which may end in something defined in it, and the packages above it."""
    found, place = set(), ROOT
    for part in name.split("."):
        place /= part
        if (place / "__init__.py").exists():
            found.add(place / "__init__.py")
        elif place.with_suffix(".py").exists():
            found.add(place.with_suffix(".py"))
    return found


def main() -> None:
    for stage in sys.argv[1:]:
        for room in rooms_of(ROOT / PACKAGE / f"{stage}.py"):
            print(f"      - {room}")


if __name__ == "__main__":
    main()
