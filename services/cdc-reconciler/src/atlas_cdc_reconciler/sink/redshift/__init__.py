"""The sink that keeps the warehouse in Amazon Redshift, at scale.

A batch becomes Parquet files in S3, COPY takes them into staging tables, and one transaction makes
of these what the batch did to the rows. Pure: `dialect`, `ddl`, `statements`, `staging`, `plan`.
"""
