"""What the operator does: one package a kind, and what they share."""
