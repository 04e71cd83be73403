"""What the steps pass on to each other: predictions, shards, claims, rows of tables."""
