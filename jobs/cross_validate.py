"""Measure every configured model on several nights, each on days it has not seen; registers and publishes nothing."""

from recsys_spark.pipeline import cross_validation, job

if __name__ == "__main__":
    job.main("cross_validate", cross_validation.cross_validate, __doc__)
