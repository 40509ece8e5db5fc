"""Indexes of cold attributes: asked for, built, dropped."""
