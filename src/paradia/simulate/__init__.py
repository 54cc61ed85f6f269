"""Simulated heads and scans: the truth."""
