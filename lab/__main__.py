"""``python -m lab``."""

from lab.command import main

if __name__ == "__main__":
    main()
