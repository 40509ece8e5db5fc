"""Writes from topics and queues: read, submitted, acknowledged when they are stored."""
