"""Shows results: a report with plots, a comparison of two runs, the README's table."""
