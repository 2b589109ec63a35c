"""`python -m retrieval`: the command `tandem`, where it is not on the path."""

from retrieval.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
