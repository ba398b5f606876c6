"""What MLflow runs to load a registered model: it copies this file beside the artifacts, where a pickle would lie."""

from mlflow.models import set_model

from recsys_spark.tracking.pyfunc import RecommenderModel

set_model(RecommenderModel())
