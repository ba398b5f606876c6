"""Publish the champion's lists for every active user, and popular items for the cold ones."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("recommend", stages.recommend, __doc__)
