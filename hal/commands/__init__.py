"""Commands of the program `hal` that are about no part of the library in particular; hal/cli.py lists them all."""
