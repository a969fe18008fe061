"""Measures MySQL: replay, backup, restore, blocked writes, RPO and memory (`make bench ENGINE=mysql`)."""
