"""No module imports one that imports it, be it through others or within a function."""

from graphlib import CycleError, TopologicalSorter

from tests.contract.imports import PACKAGE, ROOT, imported_by


def test_no_import_goes_in_a_circle():
    modules = [path for path in (ROOT / PACKAGE).rglob("*.py") if path.name != "__init__.py"]
    graph = {module: {path for path in imported_by(module) if path.name != "__init__.py"} for module in modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = (str(path.relative_to(ROOT)) for path in reversed(error.args[1]))
        raise AssertionError(" imports ".join(circle)) from None
