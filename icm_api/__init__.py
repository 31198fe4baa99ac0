"""Internal Coherence Maximization over an API."""
