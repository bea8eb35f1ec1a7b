"""Random numbers, ragged arrays, orders that spread, and loops that numba compiles."""
