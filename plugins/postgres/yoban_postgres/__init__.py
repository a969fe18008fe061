"""PostgreSQL engine for Yoban. `plugin` is the entry point; `engine` puts the facets together."""
