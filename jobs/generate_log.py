"""Write the embedded log: seeded events, items and knowledge graph, with the dirt of real logs and their truth."""

from recsys_spark.pipeline import job, stages

if __name__ == "__main__":
    job.main("generate_log", stages.generate_log, __doc__)
