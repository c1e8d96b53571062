"""`python -m ndae`: the command `ndae`."""

from ndae.experiments.cli import main

if __name__ == "__main__":
    main()
