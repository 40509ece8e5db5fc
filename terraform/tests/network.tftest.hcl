provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "offline"
  secret_key                  = "offline"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

run "network" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    name                = "atlas-test"
    region              = "eu-central-1"
    account_id          = "000000000000"
    cidr                = "10.50.0.0/16"
    zones               = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    security_groups     = { query = "q", hotcache = "h", postgres = "p" }
    flows               = { query-postgres = { from = "query", to = "postgres", port = 5432 } }
    client_flows        = { query-clients = { to = "query", cidr = "10.0.0.0/12", port = 443 } }
    aws_clients         = ["query"]
    interface_endpoints = ["logs"]
    log_days            = 14
    logs_key_arn        = "arn:aws:kms:eu-central-1:000000000000:key/logs"
  }

  assert {
    condition     = !anytrue([for subnet in merge({ for zone, made in aws_subnet.private : "p${zone}" => made }, aws_subnet.isolated) : subnet.map_public_ip_on_launch])
    error_message = "a subnet hands out public addresses"
  }

  assert {
    condition     = length(distinct(concat([for s in aws_subnet.private : s.cidr_block], [for s in aws_subnet.isolated : s.cidr_block]))) == 6
    error_message = "six subnets are to have six ranges"
  }

  # What is not in flows cannot connect: a flow is two rules, a client of AWS two more and one to S3.
  assert {
    condition     = join(" ", sort(keys(aws_vpc_security_group_ingress_rule.flow))) == "query-endpoints query-postgres" && keys(aws_vpc_security_group_egress_rule.flow) == keys(aws_vpc_security_group_ingress_rule.flow)
    error_message = "there are other rules than the flows"
  }

  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.flow : rule.from_port == rule.to_port && rule.cidr_ipv4 == null])
    error_message = "a rule is wider than one port of one group"
  }

  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL"
    error_message = "flows are not logged"
  }
}

run "two_zones_are_refused" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    name                = "atlas-test"
    region              = "eu-central-1"
    account_id          = "000000000000"
    cidr                = "10.50.0.0/16"
    zones               = ["eu-central-1a", "eu-central-1b"]
    security_groups     = {}
    flows               = {}
    aws_clients         = []
    interface_endpoints = []
    log_days            = 14
    logs_key_arn        = "arn:aws:kms:eu-central-1:000000000000:key/logs"
  }

  expect_failures = [var.zones]
}
