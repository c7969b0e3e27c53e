"""`python -m rekindle.cli`: the command without its script."""

from rekindle.cli import main

if __name__ == "__main__":
    main()
