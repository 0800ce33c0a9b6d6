"""The log where DVC would not find it, in the copy that a queued experiment runs in, or nowhere; what the pool lacks.

Such copies have what Git and DVC know. A log that nobody told them of is not there, which DVC says only when the
experiment has failed; so it is said when the experiment is queued. Likewise a table for the pool (`fusion.beside`) that
no stage makes: DVC says so when all else has run.
"""

from functools import wraps
from os.path import abspath, exists, isdir, join, relpath
from pathlib import Path

OURS = "stages/hooks/recipes.yaml"  # of a repository with it `source.path` is ours
PARAMS = "params.yaml"
_COPIES = join(".dvc", "tmp", "exps")
_NO_LOG = (".dvc", ".md")
_PREDICTIONS = "data/predictions"


def queued(original):
    """`dvc.repo.experiments.run.run`, which refuses to queue an experiment whose copy would lack the log."""

    @wraps(original)
    def run(repo, *args, **options):
        if options.get("queue") or options.get("tmp_dir"):
            from dvc.exceptions import InvalidArgumentError

            for log in _logs(repo.root_dir, options.get("params") or ()):
                if problem := _not_in_a_copy(repo, log, options.get("copy_paths") or ()):
                    raise InvalidArgumentError(problem)
        return original(repo, *args, **options)

    return run


def missing(original):
    """`dvc.repo.reproduce.reproduce`, which says by its key that the log is not there, or what is to be pooled."""

    @wraps(original)
    def reproduce(repo, *args, **options):
        from dvc.exceptions import ReproductionError

        if problem := _not_pooled(repo):
            raise ReproductionError(problem)
        try:
            return original(repo, *args, **options)
        except ReproductionError as error:
            path = next((log["path"] for log in _logs(repo.root_dir)), "")
            if not path or exists(join(repo.root_dir, path)) or not _is_about(error, path):
                beside = _pooled(repo.root_dir).get("beside", "")
                if beside and _is_about(error, f"{_PREDICTIONS}/{beside}.parquet", by_name=True):
                    raise ReproductionError(_no_table(beside)) from None
                raise
            cure = "set it in params.yaml to the log, or put the log there"
            if _COPIES in repo.root_dir:
                cure = f"this is the experiment's copy; `dvc add {path}` in your own and queue it again"
            raise ReproductionError(f"source.path: {path}: no such file or folder; {cure}") from None

    return reproduce


def _pooled(root):
    """Section `fusion` of params; nothing where it is another project's."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import load_yaml

    try:
        found = load_yaml(join(root, PARAMS))["fusion"] if exists(join(root, OURS)) else {}
    except (OSError, DvcException, KeyError, TypeError):
        return {}  # for others to report
    return found if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()) else {}


def _not_pooled(repo) -> str:
    """Why `fusion.beside` cannot be pooled, before anything runs; empty where it can, or only the run will show it."""
    pool = _pooled(repo.root_dir)
    beside = pool.get("beside", "")
    if not beside:
        return ""
    if beside in ("habits", "fusion", pool.get("model")):
        return f"fusion.beside: {beside} is in the pool already; name another table, such as reference/past"
    path = Path(abspath(join(repo.root_dir, _PREDICTIONS, f"{beside}.parquet")))
    wanted = any(path == Path(abspath(dep.fs_path)) for dep in repo.index.deps)
    made = path.exists() or any(path.is_relative_to(abspath(out.fs_path)) for out in repo.index.outs)
    return _no_table(beside) if wanted and not made else ""


def _no_table(beside) -> str:
    return (f"fusion.beside: {beside}: no stage makes {_PREDICTIONS}/{beside}.parquet; reference/past and "
            "reference/markov are some that the default run makes, baselines/sasrec_ce_next is a baseline's")


def _logs(root, overrides=()):
    """`path` and `files` of section `source` as params and overrides set them, of each setting of a sweep."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import load_yaml

    if not exists(join(root, OURS)):
        return []
    try:
        found = load_yaml(join(root, PARAMS))["source"]
        log = {key: [str(found[key])] for key in ("format", "path", "files")}
    except (OSError, DvcException, KeyError, TypeError):
        return []  # for others to report
    for override in overrides:
        name, _, value = override.removeprefix(f"{PARAMS}:").partition("=")
        section, _, key = name.strip().lstrip("+").partition(".")
        if section == "source" and key in log:
            log[key] = [each.strip().strip("'\"") for each in value.split(",")]
    if log["format"] == ["simulated"]:
        return []
    return [{"path": path, "files": log["files"][0]} for path in log["path"]]


def _not_in_a_copy(repo, log, taken) -> str:
    """Why a copy would lack the log; empty where it would not."""
    path, place = log["path"], join(repo.root_dir, log["path"])
    inside = Path(abspath(place)).is_relative_to(repo.root_dir)
    if not inside:
        return "" if Path(path).is_absolute() else (
            f"source.path: {path}: lies outside the repository, and queued experiments run in copies elsewhere; give "
            f"the absolute path, {abspath(place)}")
    if not exists(place):
        return f"source.path: {path}: no such file or folder; set it in params.yaml to the log, or put the log there"
    known = [abspath(out.fs_path) for out in repo.index.outs] + [abspath(join(repo.root_dir, each)) for each in taken]
    for file in _files(place, log["files"]):
        covered = any(Path(abspath(file)).is_relative_to(each) for each in known)
        if not covered and not repo.scm.is_tracked(relpath(file, repo.scm.root_dir)):
            name = relpath(file, repo.root_dir)
            return (f"source.path: neither DVC nor Git knows {name}, so the copy of the repository in which a queued "
                    f"experiment runs would lack it; `dvc add {name}` first")
    return ""


def _files(place, pattern):
    """The log's files, as stage `ingest` finds them."""
    if not isdir(place):
        return [place]
    try:
        found = sorted(Path(place).glob(pattern))
    except (ValueError, NotImplementedError):
        return []  # for the stage to report
    return [str(file) for file in found if file.is_file() and file.suffix.lower() not in _NO_LOG
            and not any(part.startswith(".") for part in file.relative_to(place).parts)]


def _is_about(error, path, by_name=False) -> bool:
    """Whether what failed is that `path` is not there, or (unless only `by_name`) some file, which may be it."""
    while error is not None:
        if path in str(error) or (isinstance(error, FileNotFoundError) and not by_name):
            return True
        error = error.__cause__
    return False
