"""The child process that owns the device. Knows no HTTP and no scheduling; runs on Python 3.10 and later."""
