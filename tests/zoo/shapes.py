"""Towers that see pictures of any shape, one after another or padded."""
