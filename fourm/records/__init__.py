"""How a model was made, and its card: what lies beside the weights and goes to a hub."""
