"""`python -m web`: what the command `feed` does, where that is not on the path."""

from web.cli import main

main()
