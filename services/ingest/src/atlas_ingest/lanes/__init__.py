"""The group commit: batches through lanes into the database, each stored once."""
