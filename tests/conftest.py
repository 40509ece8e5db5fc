"""Servers and services for the tests below this folder."""

pytest_plugins = ["atlas_devstack.pytest_plugin"]
