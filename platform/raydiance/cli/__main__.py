"""`python -m raydiance.cli` is `raydiance`."""

from raydiance.cli import main

main()
