"""What of DVC is changed: `-S` knows symbols, recipes and keys, a checkout asks for no baselines never run, and a log
that is not there, or would not be in an experiment's copy, is named.
"""
