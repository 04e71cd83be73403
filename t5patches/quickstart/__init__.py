"""The whole job, on a made-up corpus or on one's own data."""
