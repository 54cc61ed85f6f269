"""Operators: linear maps with adjoints."""
