"""How near a map is to the truth, and how good a run looks without one."""
