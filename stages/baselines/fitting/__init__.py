"""What every baseline is fitted on and how it is run: the task, its settings, its stage."""
