"""`python -m comfy_vq`."""

import sys

from .cli import main

sys.exit(main())
