"""``python -m mipp`` is the command ``mipp``."""

from mipp.cli import main

if __name__ == "__main__":
    main()
