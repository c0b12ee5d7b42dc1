"""Demonstrations on a few bundled questions: the library, and the server."""
