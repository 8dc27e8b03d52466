"""See `sensevoice`."""

import sys

from steadyvoice.provision.download.sensevoice import main

if __name__ == "__main__":
    sys.exit(main())
