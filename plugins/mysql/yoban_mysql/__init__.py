"""MySQL engine for Yoban. It is listed by `yoban plugins` as not yet implemented, and supplies nothing."""
