"""A checkout that does not ask for the outputs of baselines that have never run.

The baselines' pipeline stands beside the main one and need not run, but `dvc checkout`, `dvc exp apply` and Git's hooks
put back the outputs of all pipelines, and fail where some are missing. Those of baselines are left out, unless named.
"""

from functools import wraps
from logging import getLogger

BASELINES = "stages/baselines/dvc.yaml"


def wrapped(original):
    """`dvc.repo.checkout.checkout`, without errors for baselines whose outputs are missing."""

    @wraps(original)
    def checkout(repo, targets=None, **options):
        from dvc.exceptions import CheckoutError
        from dvc.utils import relpath

        if targets:
            return original(repo, targets, **options)
        outs = [out.fs_path for out in repo.index.outs if out.stage.path_in_repo == BASELINES]
        quiet = _NeverRun(outs)
        logger = getLogger("dvc_data.index.checkout")
        logger.addFilter(quiet)
        try:
            return original(repo, targets, **options)
        except CheckoutError as error:
            optional = {relpath(path) for path in outs}
            failed = [path for path in error.target_infos if path not in optional]
            if failed:
                raise CheckoutError(failed, {**error.result, "failed": failed}) from None
            return {name: value for name, value in error.result.items() if name != "failed"}
        finally:
            logger.removeFilter(quiet)

    return checkout


class _NeverRun:
    """Drops DVC's warning, one for each output, that it has no hash of outputs which no run has made yet."""

    def __init__(self, outs: list[str]):
        self.outs = set(outs)

    def filter(self, record) -> bool:
        return not ("No file hash info" in str(record.msg) and record.args and record.args[0] in self.outs)
