"""Stage `untold`: the table `prior` without rows, for a language model that is told none (`prompt.prior` none)."""

import polars as pl

from stages.common.params import Section
from stages.common.stage import Stage, table
from stages.common.tables import SCHEMAS


def untold(params: Section) -> tuple[pl.DataFrame]:
    return (pl.DataFrame(schema=SCHEMAS["prior"]),)


STAGE = Stage("untold", __doc__, untold, Section, reads={}, writes={"out": table("prior")},
              message=lambda args, frame: "untold: no prior")

if __name__ == "__main__":
    STAGE.run()
