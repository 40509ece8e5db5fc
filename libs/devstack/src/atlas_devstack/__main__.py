"""python -m atlas_devstack up | down | status: the same as `atlas up | down | status`."""

from atlas_devstack.cli import app

if __name__ == "__main__":
    app()
