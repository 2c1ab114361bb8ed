"""`python -m coinbench`."""

from coinbench.cli import main

main()
