"""Make the page of a night: one HTML file with its metrics, its lists, and why it decided as it did."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("report", stages.report, __doc__)
