"""Numbers that compare maps and judge runs."""
