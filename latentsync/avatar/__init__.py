"""Drawn talking heads whose lips are known: endless clips with exact truth, for training the demo models and for tests."""
