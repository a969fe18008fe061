"""`make bench-runtime`: the same small operator on yoban.runtime, kopf and client-go, side by side."""
