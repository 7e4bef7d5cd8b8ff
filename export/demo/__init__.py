"""The demonstration model: drawn pictures of skin, made-up conditions, a small model of the original's
architecture trained on them, and the count of how often it is right."""
