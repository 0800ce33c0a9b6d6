"""Stage `base`: a model's name becomes a record of what it stands for; the weights stay in the user's cache."""

from stages.common.params import Section
from stages.common.stage import Stage
from stages.model.resolve import Manifest, manifest_folder, resolve
from stages.model.settings import Model


class Params(Section):
    model: Model


def base(params: Params) -> Manifest:
    """Resolve `model.name`, fetching the weights where the cache lacks them."""
    return resolve(params.model.name, params.model.revision)


STAGE = Stage(
    "base", __doc__, base, Params, reads={}, writes={"out": manifest_folder("folder that receives base.json")},
    message=lambda args, made: f"base model: {made.name} ({made.source}, {made.license})",
)

if __name__ == "__main__":
    STAGE.run()
