"""Scheduling, the worker process and the tickets between them. Knows no audio, no text, no torch."""
