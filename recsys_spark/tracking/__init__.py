"""MLflow: runs, the registry, promotion and report pages.

MLflow greets every model with a screen of advice and a progress bar per file; a night's log has no room
for them. Set the variable or the logger's level to have them back.
"""

import logging
import os

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.ERROR)
