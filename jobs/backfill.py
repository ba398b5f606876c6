"""Run the nights of a range of days, in their order."""

import sys

from recsys_spark.pipeline import backfill, job

if __name__ == "__main__":
    sys.exit(job.run("backfill", backfill.backfill, __doc__, options=backfill.OPTIONS))
