import os
import sys

import grpc
from grpc_health.v1 import health_pb2 as h
from grpc_health.v1 import health_pb2_grpc as g

channel = grpc.insecure_channel(
    "127.0.0.1:" + os.environ["ATLAS_RPC__HEALTH_PORT"], [("grpc.enable_http_proxy", 0)]
)
answer = g.HealthStub(channel).Check(h.HealthCheckRequest(), timeout=3)
sys.exit(answer.status != h.HealthCheckResponse.SERVING)
