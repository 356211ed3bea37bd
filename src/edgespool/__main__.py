"""`python -m edgespool`: the command `edgespool`."""

from .cli import main

main("python -m edgespool")
