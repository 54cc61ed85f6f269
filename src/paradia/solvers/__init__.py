"""Solvers: iterations that take callables."""
