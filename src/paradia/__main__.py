"""``python -m paradia``."""

from paradia.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
