"""Measure the night's models and the champion on the same held-out users, over the full catalogue."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("evaluate", stages.evaluate, __doc__)
