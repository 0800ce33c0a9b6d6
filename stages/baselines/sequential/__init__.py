"""What baselines share that are small sequence models, and SASRec, which several of them are made of."""
