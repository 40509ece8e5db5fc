"""The AtlasCo database: schema, functions and grants, and the job that applies them."""

from atlas_db.upgrade import LOGIN_ROLES, SERVICE_ROLES, set_role_passwords, upgrade

__all__ = ["LOGIN_ROLES", "SERVICE_ROLES", "set_role_passwords", "upgrade"]
