"""Verbs that measure a finished video or a checkpoint; each calls the library once and prints one line."""
