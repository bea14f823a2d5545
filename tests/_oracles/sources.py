"""Where the sources are: the tests also run against an installed wheel, away from them."""

import os
from pathlib import Path

SOURCE = Path(os.environ.get("DEEL_LIP_TF_SOURCE", Path(__file__).parents[2]))
WITHOUT_SOURCE = "the sources are not here; DEEL_LIP_TF_SOURCE may say where they are"
