"""Attributes promoted and demoted by how they are read and written."""
