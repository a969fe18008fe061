"""MySQL engine for Yoban."""
