"""From request to answer: jobs, HTTP routes, health. Knows engines by their cards and models only through the worker."""
