"""Generation: sampling, the cache, batches of uneven prompts."""
