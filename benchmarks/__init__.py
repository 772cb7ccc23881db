"""Benchmarks: each compares two ways of doing one thing in one run, prints a table and writes JSON."""
