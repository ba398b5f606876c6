"""Packaging. The pins that are tested together are in requirements/; these are the ranges that may work."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "recsys_spark/__init__.py").read_text("utf-8"), re.M)
README = HERE / "README.md"

assert VERSION is not None, "recsys_spark/__init__.py has no __version__"

setup(
    name="recsys-spark",
    version=VERSION[1],
    description="A distributed batch recommender on Spark, Petastorm, Horovod and MLflow",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # 3.12 is left out because the stack was tried on 3.11 alone.
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["recsys_spark", "recsys_spark.*"]),
    package_data={"recsys_spark": ["log4j2.properties", "reporting/page.*"]},
    install_requires=[
        # 4.1 asks for pyarrow 15, in which Petastorm's readers do not open.
        "pyspark>=4.0,<4.1",
        # 0.13.1 loses rows with a finite number of epochs.
        "petastorm==0.12.1",
        "pyarrow==14.0.2",
        # pyarrow 14 is built against numpy 1.
        "numpy>=1.26,<2",
        "pandas>=2.2,<2.4",
        "pandera>=0.35,<0.36",
        # Petastorm imports pkg_resources, gone in 81.
        "setuptools>=77.0.3,<81",
        "torch>=2.13,<2.14",
        "mlflow>=3.17,<3.18",
        "pydantic>=2.10,<3",
        "pyyaml>=6",
        "tqdm>=4.66",
        "rich>=13",
        "scipy>=1.11",
        "scikit-learn>=1.5",
        "numba>=0.60",
        "faiss-cpu>=1.10",
        "optuna>=4",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "psutil>=5.9",
        "redis>=5",
        "psycopg[binary]>=3.2",
    ],
    # Not a plain requirement: it has no wheels, needs torch and cmake<4 installed beforehand and a
    # compiler that is told -std=c++17, which pip cannot be asked for. `make setup` does all that.
    # Never horovod[spark]: that pins pyarrow<11.
    extras_require={"horovod": ["horovod==0.28.1", "cloudpickle", "cffi", "packaging"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
