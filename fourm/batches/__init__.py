"""What a step asks of a model: budgets, spans and masks of each sample, as two packed streams."""
