"""Probabilities become metrics: accuracy by group, calibration, bootstrap over users, logit adjustment."""
