"""`make demo`: the whole story on a real cluster, from creation to a restore a second before the accident."""
