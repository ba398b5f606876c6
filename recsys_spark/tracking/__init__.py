"""MLflow: runs, the registry, promotion and report pages.

MLflow greets every model with a screen of advice and a progress bar per file; a night's log has no room
for them. Set the variables to have them back.
"""

import os

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
