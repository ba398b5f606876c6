"""Search a model's parameters (tune): trials judged on the valid part, the best written as YAML for the nights."""

from recsys_spark.pipeline import job, tuning

if __name__ == "__main__":
    job.main("tune", tuning.tune, __doc__)
