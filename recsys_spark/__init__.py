"""A distributed batch recommender on Spark, Petastorm, Horovod and MLflow."""

__version__ = "0.1.0"
