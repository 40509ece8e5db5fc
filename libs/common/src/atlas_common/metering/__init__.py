"""The meters that hold tenants to their quotas."""

from atlas_common.metering.bucket import Bucket
from atlas_common.metering.meters import QuotaMeters, exceeded_count

__all__ = ["Bucket", "QuotaMeters", "exceeded_count"]
