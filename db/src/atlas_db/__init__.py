"""The AtlasCo database: schema, functions and grants, and the job that applies them."""

from atlas_db.upgrade import SERVICE_ROLES, set_role_passwords, upgrade

__all__ = ["SERVICE_ROLES", "set_role_passwords", "upgrade"]
