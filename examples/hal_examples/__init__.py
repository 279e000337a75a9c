"""Programs to read and to copy, each in one file. They ship with hal: `hal demo` runs minilm.py."""
