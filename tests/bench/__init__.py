"""Measures archive, replay, backup, restore, RPO and memory, side by side with a tuned pgBackRest (`make bench`)."""
