"""A model from outside: two files and an entry point."""
