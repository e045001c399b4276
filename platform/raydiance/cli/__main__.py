"""`python -m raydiance.cli` is `raydiance`."""

from raydiance.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
