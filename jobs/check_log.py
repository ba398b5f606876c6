"""Hold the run date against the days before it, and stop the night before it uses a day that is not sound."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("check_log", stages.check_log, __doc__)
