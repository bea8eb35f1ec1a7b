"""The any-to-any matrix: every condition against every target, with bounds (``fourm evaluate``)."""
