"""Iterative sampling: any modalities from any others."""
