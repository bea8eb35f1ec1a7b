"""Fine-tuning: a trained model learns one more task, with a head on its encoder or by its own
decoder.
"""
