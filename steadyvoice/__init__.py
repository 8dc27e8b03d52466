"""steadyvoice: speech to text and text to speech that stay steady on one GPU.

Importing the package imports nothing else: the worker side runs under other interpreters.
"""

__version__ = "0.1.0"
