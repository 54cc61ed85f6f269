"""The command line, generated from the methods."""
