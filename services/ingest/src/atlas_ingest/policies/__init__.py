"""Policies as operators see and change them."""
