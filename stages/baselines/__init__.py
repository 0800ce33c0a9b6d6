"""Rivals: one file per system of the paper's Table 3, and the trivial ones that every learned row must beat.

A new one is

1. a file here: a `Recommender` and `run_system` (command.py) for what is trained from nothing, a `LanguageRow` and
   `run_row` (llm.py) for what is made of a language model; its docstring is its card: what is kept as published, what
   differs and why, which check holds it;
2. a section of params.yaml beside it: the values to try, the default first;
3. a stage of dvc.yaml beside it, whose list of files `python -m tests.contract.imports baselines/<name>` prints and whose
   params `python -m tests.contract.reads baselines/<name>`;
4. its names in the matrix of stage `evaluate` there;
5. its rows in stages/studies/studies.yaml, table3 and table8;
6. its tests in tests/baselines.
"""
