"""The operator image: what it is built from, and how its self-contained runtime is put together."""
