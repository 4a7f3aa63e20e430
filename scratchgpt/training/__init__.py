"""Training: a generator of events, and what consumes and preserves them."""
