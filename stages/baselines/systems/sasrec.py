"""SASRec (Kang and McAuley 2018): a small causal transformer over behaviours, with its published objective or softmax.

`bce`, as published, holds each label against one negative (`objectives.binary_cross_entropy` says which); `ce` is the
full softmax, with which Klenitskiy and Vasilev (2023) found it far stronger. Blocks are torch's: pre-norm, with a ReLU
layer of the width of the vectors between, and a norm at the end; scores are inner products with the behaviours'
vectors. The model is in stages/baselines/sequential/sasrec.py, since other baselines are made of it.
"""

from stages.baselines.sequential.objectives import OBJECTIVES
from stages.baselines.sequential.sasrec import fit_sasrec
from stages.baselines.sequential.stage import sequential

STAGE = sequential("sasrec", __doc__, fit_sasrec, objectives=OBJECTIVES, histories=True)

if __name__ == "__main__":
    STAGE.run()
