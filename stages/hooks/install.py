"""Wraps functions of DVC as soon as DVC loads their modules.

This folder is installed a second time, as the top-level package `behaviorlm_hooks` with this file as its `__init__`,
and with a `.pth` that calls `install` at every start of Python in the environment. Hence this file imports only `sys`
at the top, and the other files are loaded only when DVC loads what they wrap.
"""

import sys

# module of DVC: its function, the file here that wraps it (and the function there), and what goes without it
HOOKS = {
    "dvc.utils.cli_parse": (
        "to_path_overrides", "overrides",
        "the paper's symbols do not work with `-S`; write the key, such as -S sft.epsilon=0.1",
    ),
    "dvc.repo.checkout": (
        "checkout", "checkout", "`dvc checkout` asks for baselines that have not run; add --allow-missing",
    ),
    "dvc.repo.experiments.run": (
        "run", "source:queued", "an experiment is queued though its copy lacks the log; `dvc add` it first",
    ),
    "dvc.repo.reproduce": ("reproduce", "source:missing", "a source.path that leads nowhere is not named"),
}


def install() -> None:
    """Wait for DVC's modules; safe to call twice."""
    if not any(type(finder).__name__ == HookFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, HookFinder())


class HookFinder:
    """Finds only the modules of `HOOKS`, as the other finders do, and changes each once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name not in HOOKS:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        loader = getattr(spec, "loader", None)
        if loader is not None and hasattr(loader, "exec_module"):
            execute = loader.exec_module

            def exec_module(module):
                execute(module)
                _wrap(module)

            loader.exec_module = exec_module
        return spec


def _wrap(module) -> None:
    """Wrap the module's function; where this DVC has none, say on stderr what goes without it."""
    name, file, without = HOOKS[module.__name__]
    original = getattr(module, name, None)
    if original is None:
        print(f"behaviorlm: this DVC has no {module.__name__}.{name}, so {without}, or install the DVC that "
              "pyproject.toml names", file=sys.stderr)
        return
    from importlib import import_module

    file, _, wrapper = file.partition(":")
    setattr(module, name, getattr(import_module(f"{__package__}.{file}"), wrapper or "wrapped")(original))
