"""Reading and writing the released formats of the 4M family."""
