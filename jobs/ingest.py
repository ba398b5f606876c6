"""Read the raw log into events; what is no event goes to quarantine, with its text and the reason."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("ingest", stages.ingest, __doc__)
