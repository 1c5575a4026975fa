"""Makes the preprocessing step's code importable as it stands, with a stand-in for the server's module."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for folder in ("templates/shared", "templates/preprocessing/1", "templates/postprocessing/1", "tests/doubles"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))
