"""Decisions without I/O: plain facts in, a plan or a sentence out.

Nothing here reads a clock, a cluster or a store. What is decided here is decided the same way by operator and agents.
"""
