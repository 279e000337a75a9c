"""`hal new-backend`: a backend package to begin with, which is installed and judged before a line of it is changed.

command.py      the command
names.py        which names can be taken
kinds.py        the kinds
package.py      templates to files, all of them or none
text.py         what stands in place of the templates' marks
templates/      `common` for every kind written in Python, and a folder for each kind; `.in` is left off
"""
