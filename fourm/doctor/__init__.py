"""What this machine can do, and what a pretraining config would cost on it."""
