"""Secrets that a setting names in place of giving them: from files, and from stores.

A store (HashiCorp Vault, OpenBao, AWS Secrets Manager) is asked in the background, within
`secrets_opened`; what it said last is what `login_source` and `newest_ring` give, without a wait.
"""

from atlas_common.secrets.login import Login, LoginSource
from atlas_common.secrets.name import FORMS, check_source
from atlas_common.secrets.sources import check_login_source, login_source, newest_ring

__all__ = [
    "FORMS",
    "Login",
    "LoginSource",
    "check_login_source",
    "check_source",
    "login_source",
    "newest_ring",
]
