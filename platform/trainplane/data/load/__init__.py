"""From verified bytes to batches of tensors."""
