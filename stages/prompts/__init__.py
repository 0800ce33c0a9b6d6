"""Events become tokens: checks of the labels, the two layouts, conversations."""
