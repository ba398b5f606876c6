"""Hand the published lists over to files, Redis or PostgreSQL, and switch each to them in one step."""

import sys

from recsys_spark.pipeline import export, job

if __name__ == "__main__":
    sys.exit(job.run("export", export.export, __doc__, options=export.OPTIONS))
