"""The whole night: ingest, data set, models, evaluation, promotion and publishing, in one process."""

from recsys_spark.pipeline import job
from recsys_spark.pipeline.nightly import nightly

if __name__ == "__main__":
    job.main("nightly", nightly, __doc__)
