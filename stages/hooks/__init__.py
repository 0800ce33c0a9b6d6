"""What of DVC is changed: `-S` reads symbols and recipes, and a checkout does not ask for baselines never run."""
