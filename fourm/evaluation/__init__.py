"""How good the outputs are: metrics of each raw type."""
