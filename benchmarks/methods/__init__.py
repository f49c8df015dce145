"""Every method on the same work."""
