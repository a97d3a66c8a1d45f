"""CA, contextual attention or DeepFill v1 (Yu et al. 2018)."""
