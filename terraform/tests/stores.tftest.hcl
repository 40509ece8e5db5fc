# Stores: encrypted, private, protected, with the parameters the platform needs.

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "offline"
  secret_key                  = "offline"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

variables {
  name              = "atlas-test"
  region            = "eu-central-1"
  account_id        = "000000000000"
  subnet_ids        = ["subnet-a", "subnet-b", "subnet-c"]
  security_group_id = "sg-test"
  kms_key_arn       = "arn:aws:kms:eu-central-1:000000000000:key/data"
  secrets_key_arn   = "arn:aws:kms:eu-central-1:000000000000:key/secrets"
  logs_key_arn      = "arn:aws:kms:eu-central-1:000000000000:key/logs"
  log_days          = 14
  trust_path        = "/run/atlas/trust.pem"
}

run "postgres" {
  command = plan

  module {
    source = "./modules/postgres"
  }

  variables {
    database       = "atlas"
    engine_version = "18"
    zones          = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    protected      = true
    size = {
      instance_class = "db.r7g.large", replica_class = "db.r7g.large", replicas = 2, multi_az = true, storage_gb = 500
      storage_gb_max = 1000, iops = 12000, throughput = 500, max_connections = 500, backup_days = 35, slot_wal_mb_max = 32768
      max_wal_mb     = 8192, insights_days = 7, monitoring_interval_s = 15
    }
  }

  assert {
    condition = alltrue([
      for instance in concat([aws_db_instance.primary], values(aws_db_instance.replica)) :
      instance.storage_encrypted && !instance.publicly_accessible && instance.deletion_protection
    ])
    error_message = "an instance is not encrypted, is public, or can be deleted"
  }

  assert {
    condition     = aws_db_instance.primary.multi_az && aws_db_instance.primary.backup_retention_period == 35 && !aws_db_instance.primary.skip_final_snapshot
    error_message = "the primary would not come through the loss of a zone, or of its disk"
  }

  assert {
    condition     = length(distinct([for replica in aws_db_instance.replica : replica.availability_zone])) == 2
    error_message = "replicas share a zone"
  }

  assert {
    condition = alltrue([
      for name, value in {
        "rds.logical_replication"  = "1", "rds.force_ssl" = "1", "max_slot_wal_keep_size" = "32768", "cron.database_name" = "atlas"
        "shared_preload_libraries" = "pg_stat_statements,pg_cron,pg_partman_bgw"
      } : contains([for parameter in aws_db_parameter_group.primary.parameter : "${parameter.name}=${parameter.value}"], "${name}=${value}")
    ])
    error_message = "the primary lacks a parameter that the platform needs"
  }

  # Static ones applied at once never settle: every plan would show them again.
  assert {
    condition = alltrue([
      for parameter in aws_db_parameter_group.primary.parameter : parameter.apply_method == "pending-reboot"
      if contains(["rds.logical_replication", "shared_preload_libraries", "max_replication_slots", "max_connections"], parameter.name)
    ])
    error_message = "a static parameter is to be applied at once"
  }

  assert {
    condition = alltrue([
      for name in ["sync_replication_slots=1", "hot_standby_feedback=1", "rds.logical_slot_sync_dbname=atlas", "max_standby_streaming_delay=2000"] :
      contains([for parameter in aws_db_parameter_group.replica.parameter : "${parameter.name}=${parameter.value}"], name)
    ])
    error_message = "replicas do not synchronise logical slots, or hold replay up beyond their budget"
  }
}

run "postgres_16_is_refused" {
  command = plan

  module {
    source = "./modules/postgres"
  }

  variables {
    database       = "atlas"
    engine_version = "16"
    zones          = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    protected      = false
    size = {
      instance_class        = "db.t4g.medium", replica_class = "db.t4g.medium", replicas = 0, multi_az = false, storage_gb = 50
      storage_gb_max        = 100, max_connections = 100, backup_days = 7, slot_wal_mb_max = 8192, max_wal_mb = 1024, insights_days = 7
      monitoring_interval_s = 60
    }
  }

  expect_failures = [var.engine_version]
}

run "slots_may_not_fill_the_disk" {
  command = plan

  module {
    source = "./modules/postgres"
  }

  variables {
    database       = "atlas"
    engine_version = "18"
    zones          = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    protected      = false
    size = {
      instance_class        = "db.t4g.medium", replica_class = "db.t4g.medium", replicas = 0, multi_az = false, storage_gb = 50
      storage_gb_max        = 100, max_connections = 100, backup_days = 7, slot_wal_mb_max = 40000, max_wal_mb = 1024, insights_days = 7
      monitoring_interval_s = 60
    }
  }

  expect_failures = [var.size]
}

run "one_shard" {
  command = plan

  module {
    source = "./modules/cache"
  }

  variables {
    engine_version = "8.1"
    size           = { node_type = "cache.r7g.large", shards = 1, replicas = 1, snapshot_days = 1 }
  }

  assert {
    condition     = aws_elasticache_replication_group.this.transit_encryption_enabled && aws_elasticache_replication_group.this.transit_encryption_mode == "required"
    error_message = "the cache talks without TLS"
  }

  # The provider has this as text.
  assert {
    condition     = tostring(aws_elasticache_replication_group.this.at_rest_encryption_enabled) == "true" && aws_elasticache_replication_group.this.auth_token_wo_version == 1
    error_message = "the cache is not encrypted, or asks for no token"
  }

  assert {
    condition     = aws_elasticache_replication_group.this.multi_az_enabled && aws_elasticache_replication_group.this.cluster_mode == "disabled"
    error_message = "one shard with a replica is no cluster, and lives in two zones"
  }

  assert {
    condition     = join(" ", output.members) == "atlas-test-001 atlas-test-002"
    error_message = "the nodes' names do not fit their metrics"
  }
}

run "cluster" {
  command = plan

  module {
    source = "./modules/cache"
  }

  variables {
    engine_version = "8.1"
    size           = { node_type = "cache.r7g.large", shards = 2, replicas = 1, snapshot_days = 1 }
  }

  assert {
    condition     = aws_elasticache_replication_group.this.cluster_mode == "enabled" && aws_elasticache_replication_group.this.automatic_failover_enabled
    error_message = "two shards are a cluster"
  }

  assert {
    condition     = contains([for parameter in aws_elasticache_parameter_group.this.parameter : "${parameter.name}=${parameter.value}"], "cluster-require-full-coverage=no")
    error_message = "one lost shard would stop all"
  }

  assert {
    condition     = join(" ", output.members) == "atlas-test-0001-001 atlas-test-0001-002 atlas-test-0002-001 atlas-test-0002-002"
    error_message = "the nodes' names do not fit their metrics"
  }
}

run "warehouse" {
  command = plan

  module {
    source = "./modules/warehouse"
  }

  variables {
    database   = "atlas"
    size       = { base_rpu = 8, max_rpu = 16, rpu_hours_a_day = 16 }
    bucket_arn = "arn:aws:s3:::load"
    prefix     = "cdc"
  }

  assert {
    condition     = !aws_redshiftserverless_workgroup.this.publicly_accessible && aws_redshiftserverless_workgroup.this.enhanced_vpc_routing
    error_message = "Redshift is public, or its traffic leaves the VPC"
  }

  assert {
    condition     = contains([for parameter in aws_redshiftserverless_workgroup.this.config_parameter : "${parameter.parameter_key}=${parameter.parameter_value}"], "require_ssl=true")
    error_message = "Redshift answers without TLS"
  }

  assert {
    condition     = aws_redshiftserverless_namespace.this.manage_admin_password && aws_redshiftserverless_namespace.this.kms_key_id == var.kms_key_arn
    error_message = "the administrator's password would be in the state, or the data under a key of others"
  }

  assert {
    condition     = alltrue([for statement in jsondecode(data.aws_iam_policy_document.copy.json).Statement : statement.Resource != "*"])
    error_message = "COPY may read more than its prefix"
  }
}

run "stream" {
  command = plan

  module {
    source = "./modules/stream"
  }

  variables {
    kafka_version             = "3.8.x"
    size                      = { brokers = 3, broker_type = "kafka.m7g.large", volume_gb = 100, telemetry_partitions = 3, connect_mcu = 1 }
    connect_subnet_ids        = ["subnet-d", "subnet-e", "subnet-f"]
    connect_security_group_id = "sg-connect"
    users                     = ["ingest"]
    telemetry_topic           = "telemetry"
    changes_topic             = "atlas-changes"
    plugin                    = { bucket_arn = "arn:aws:s3:::plugins", key = "debezium.zip", version = "1" }
    connector = {
      host        = "db", database = "atlas", role = "atlas_reconciler", secret_arn = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:db"
      publication = "atlas_warehouse", slot = "debezium", tables = ["tenants"]
    }
  }

  assert {
    condition     = aws_msk_cluster.this.encryption_info[0].encryption_in_transit[0].client_broker == "TLS" && !aws_msk_cluster.this.client_authentication[0].unauthenticated
    error_message = "the brokers talk without TLS, or to anybody"
  }

  assert {
    condition     = aws_msk_cluster.this.broker_node_group_info[0].connectivity_info[0].public_access[0].type == "DISABLED"
    error_message = "the brokers are public"
  }

  assert {
    condition     = aws_msk_topic.changes.partition_count == 1
    error_message = "changes in several partitions have no order"
  }

  assert {
    condition     = aws_mskconnect_connector.debezium[0].connector_configuration["publication.autocreate.mode"] == "disabled" && startswith(aws_mskconnect_connector.debezium[0].connector_configuration["database.password"], "$${secretsmanager:arn%3Aaws")
    error_message = "Debezium would make a publication of its own, or has the password in its configuration"
  }
}

run "queues" {
  command = plan

  module {
    source = "./modules/dead_letters"
  }

  variables {
    queues = { writes = { visibility_seconds = 30, receives_max = 10 } }
  }

  assert {
    condition     = alltrue([for queue in concat(values(aws_sqs_queue.this), values(aws_sqs_queue.dead)) : queue.kms_master_key_id == var.kms_key_arn])
    error_message = "a queue is not encrypted"
  }

  assert {
    condition     = aws_sqs_queue.dead["writes"].message_retention_seconds > aws_sqs_queue.this["writes"].message_retention_seconds
    error_message = "a dead letter would be gone as soon as it is dead"
  }
}

run "bucket" {
  command = plan

  module {
    source = "./modules/bucket"
  }

  variables {
    name_prefix = "atlas-test"
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls, aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls, aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "a bucket can be made public"
  }
}
