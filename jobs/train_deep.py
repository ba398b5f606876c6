"""Train the deep models that the configuration names (train.deep): Petastorm, Horovod, torch."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("train_deep", stages.train_deep, __doc__)
