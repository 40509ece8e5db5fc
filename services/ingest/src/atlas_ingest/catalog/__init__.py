"""Tenants, entities and attributes: served, and looked up by the write path."""
