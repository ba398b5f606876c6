"""Number users and items, split, filter and aggregate the events, and write the training feed."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("build_dataset", stages.build_dataset, __doc__)
