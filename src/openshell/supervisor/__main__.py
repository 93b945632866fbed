"""`python -m openshell.supervisor`: one supervisor, without a zygote."""

import sys

from openshell.supervisor.main import main

if __name__ == "__main__":
    sys.exit(main())
