"""The demo world: small rendered 3-D scenes with exact ground truth, and the program that learns
them.
"""
