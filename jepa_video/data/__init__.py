"""Files and episodes to batches."""
