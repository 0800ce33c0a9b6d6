"""Baselines: one file for each of the paper's Table 3, beside the trivial ones that every learned one must beat.

A new one is three files:

1. its own in systems/: a `Recommender` and `sequential(…)` for what is trained from nothing, a `LanguageBaseline` and
   `language(…)` for what is made of a language model; its docstring is its card: what is kept as published, what
   differs and why, which check holds it;
2. params.yaml beside this file: a section of values to try, the default first;
3. dvc.yaml beside this file: a stage, whose list of code `python -m tests.contract.imports baselines/systems/<name>`
   prints, and its names in the matrix of stage `evaluate`.

Then its rows in stages/studies/studies.yaml, and its tests in tests/baselines.
"""
