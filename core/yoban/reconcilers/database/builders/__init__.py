"""What a Database's child objects look like: pure functions from frozen inputs to plain dicts, a module for each
family.

Guarantees: equal inputs give equal objects, so that a second pass has nothing to write. No I/O, no clock, no
randomness, but for `certificates` and `secrets`, whose makers of keys and passwords say so.
"""
