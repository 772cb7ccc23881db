"""Avatars: drawn talking heads with exactly known lips, for training the demo models and for tests."""
