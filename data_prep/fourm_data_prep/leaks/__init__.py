"""Near-duplicates and leaks between two sets of pictures and captions."""
