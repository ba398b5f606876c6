"""Fit the baselines that the configuration names (train.baselines) on Spark."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("train_baseline", stages.train_baseline, __doc__)
