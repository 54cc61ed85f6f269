"""One page on one run: what was done, what came out, and what to look at twice."""
