"""PID 1 of an instance's container: standard library only, no asyncio, about 10 MB. Run as `python -m` this package."""
