"""Erase people from every table and model that there is, and write the proof."""

import sys

from recsys_spark.pipeline import erasure, job

if __name__ == "__main__":
    sys.exit(job.run("erase_user", erasure.erase_user, __doc__, options=erasure.OPTIONS, alone=True))
