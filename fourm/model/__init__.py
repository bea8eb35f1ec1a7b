"""The network: embedding, attention, blocks, encoder, heads and losses.

``model`` has FourM, ``config`` its sizes; ``prepared`` is a batch made ready for it.
"""
