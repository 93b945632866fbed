"""`python -m openshell.gateway`."""

import sys

from openshell.gateway.main import main

sys.exit(main())
