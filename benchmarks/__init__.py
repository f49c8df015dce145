"""Programs that measure, and the parts that they share."""
