"""Events become windows: which are targets, and in which split."""
