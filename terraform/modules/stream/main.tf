# ---- Brokers

resource "aws_cloudwatch_log_group" "this" {
  for_each = toset(["brokers", "connect"])

  name              = "/atlas/${var.name}/kafka/${each.key}"
  retention_in_days = var.log_days
  kms_key_id        = var.logs_key_arn
}

resource "aws_msk_configuration" "this" {
  name           = var.name
  kafka_versions = [var.kafka_version]

  server_properties = <<-PROPERTIES
    auto.create.topics.enable=false
    allow.everyone.if.no.acl.found=false
    default.replication.factor=3
    min.insync.replicas=2
    unclean.leader.election.enable=false
    message.max.bytes=16777216
    replica.fetch.max.bytes=16777216
    log.retention.hours=168
    offsets.retention.minutes=20160
  PROPERTIES

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_msk_cluster" "this" {
  cluster_name           = var.name
  kafka_version          = var.kafka_version
  number_of_broker_nodes = var.size.brokers
  enhanced_monitoring    = "PER_TOPIC_PER_BROKER"

  broker_node_group_info {
    instance_type   = var.size.broker_type
    client_subnets  = var.subnet_ids
    security_groups = [var.security_group_id]

    storage_info {
      ebs_storage_info {
        volume_size = var.size.volume_gb
      }
    }

    connectivity_info {
      public_access {
        type = "DISABLED"
      }
    }
  }

  configuration_info {
    arn      = aws_msk_configuration.this.arn
    revision = aws_msk_configuration.this.latest_revision
  }

  client_authentication {
    unauthenticated = false

    sasl {
      iam   = true # Connect, and administrators.
      scram = true # Services: librdkafka knows no IAM.
    }
  }

  encryption_info {
    encryption_at_rest_kms_key_arn = var.kms_key_arn

    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }

  logging_info {
    broker_logs {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.this["brokers"].name
      }
    }
  }

  lifecycle {
    prevent_destroy = true
    # It grows by itself.
    ignore_changes = [broker_node_group_info[0].storage_info[0].ebs_storage_info[0].volume_size]
  }
}

resource "aws_appautoscaling_target" "disk" {
  service_namespace  = "kafka"
  resource_id        = aws_msk_cluster.this.arn
  scalable_dimension = "kafka:broker-storage:VolumeSize"
  min_capacity       = 1
  max_capacity       = var.size.volume_gb * 4
}

resource "aws_appautoscaling_policy" "disk" {
  name               = "${var.name}-broker-disk"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.disk.service_namespace
  resource_id        = aws_appautoscaling_target.disk.resource_id
  scalable_dimension = aws_appautoscaling_target.disk.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value     = 60
    disable_scale_in = true # Disks of brokers do not shrink.

    predefined_metric_specification {
      predefined_metric_type = "KafkaBrokerStorageUtilization"
    }
  }
}

resource "aws_msk_topic" "telemetry" {
  cluster_arn        = aws_msk_cluster.this.arn
  name               = var.telemetry_topic
  partition_count    = var.size.telemetry_partitions
  replication_factor = 3
}

resource "aws_msk_topic" "changes" {
  cluster_arn        = aws_msk_cluster.this.arn
  name               = var.changes_topic
  partition_count    = 1
  replication_factor = 3
}

# ---- Users. MSK reads secrets of this name and form only; services get the same password among librdkafka's settings.

ephemeral "random_password" "user" {
  for_each = var.users

  length  = 40
  special = false
}

resource "aws_secretsmanager_secret" "user" {
  for_each = var.users

  name_prefix             = "AmazonMSK_${var.name}-${each.key}-"
  description             = "SCRAM user ${each.key} of the brokers of ${var.name}."
  kms_key_id              = var.secrets_key_arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "user" {
  for_each = var.users

  secret_id                = aws_secretsmanager_secret.user[each.key].id
  secret_string_wo         = jsonencode({ username = each.key, password = ephemeral.random_password.user[each.key].result })
  secret_string_wo_version = var.user_passwords_version
}

ephemeral "aws_secretsmanager_secret_version" "user" {
  for_each = var.users

  secret_id = aws_secretsmanager_secret_version.user[each.key].secret_id
}

resource "aws_secretsmanager_secret" "settings" {
  for_each = var.users

  name_prefix             = "${var.name}/kafka/${each.key}-"
  description             = "librdkafka's settings of ${each.key}, as ATLAS_KAFKA__SETTINGS has them."
  kms_key_id              = var.secrets_key_arn
  recovery_window_in_days = 30
}

resource "aws_secretsmanager_secret_version" "settings" {
  for_each = var.users

  secret_id = aws_secretsmanager_secret.settings[each.key].id
  secret_string_wo = jsonencode({
    "security.protocol" = "SASL_SSL"
    "sasl.mechanism"    = "SCRAM-SHA-512"
    "sasl.username"     = each.key
    "sasl.password"     = jsondecode(ephemeral.aws_secretsmanager_secret_version.user[each.key].secret_string)["password"]
    "ssl.ca.location"   = var.trust_path
  })
  secret_string_wo_version = var.user_passwords_version
}

data "aws_iam_policy_document" "user" {
  for_each = var.users

  statement {
    sid       = "BrokersRead"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.user[each.key].arn]

    principals {
      type        = "Service"
      identifiers = ["kafka.amazonaws.com"]
    }
  }
}

resource "aws_secretsmanager_secret_policy" "user" {
  for_each = var.users

  secret_arn = aws_secretsmanager_secret.user[each.key].arn
  policy     = data.aws_iam_policy_document.user[each.key].json
}

resource "aws_msk_scram_secret_association" "this" {
  cluster_arn     = aws_msk_cluster.this.arn
  secret_arn_list = [for user in var.users : aws_secretsmanager_secret_version.user[user].secret_id]

  depends_on = [aws_secretsmanager_secret_policy.user]
}

# ---- Connect: Debezium from the primary itself into one topic

data "aws_iam_policy_document" "connect_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["kafkaconnect.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.account_id]
    }
  }
}

locals {
  # cluster/<name>/<uuid> -> topic/<name>/<uuid>/<topic>
  topics = replace(aws_msk_cluster.this.arn, ":cluster/", ":topic/")
  groups = replace(aws_msk_cluster.this.arn, ":cluster/", ":group/")
  own    = ["__amazon_msk_connect_*", var.changes_topic]
}

data "aws_iam_policy_document" "connect" {
  statement {
    sid       = "Cluster"
    actions   = ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster"]
    resources = [aws_msk_cluster.this.arn]
  }

  statement {
    sid = "Topics"
    actions = [
      "kafka-cluster:CreateTopic", "kafka-cluster:DescribeTopic", "kafka-cluster:ReadData", "kafka-cluster:WriteData",
    ]
    resources = [for topic in local.own : "${local.topics}/${topic}"]
  }

  statement {
    sid       = "Groups"
    actions   = ["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"]
    resources = ["${local.groups}/__amazon_msk_connect_*", "${local.groups}/connect-*"]
  }

  dynamic "statement" {
    for_each = var.connector == null ? [] : [var.connector.secret_arn]

    content {
      sid       = "Password"
      actions   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
      resources = [statement.value]
    }
  }

  statement {
    sid       = "ItsKey"
    actions   = ["kms:Decrypt"]
    resources = [var.secrets_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "connect" {
  name               = "${var.name}-connect"
  assume_role_policy = data.aws_iam_policy_document.connect_trust.json
}

resource "aws_iam_role_policy" "connect" {
  name   = "debezium"
  role   = aws_iam_role.connect.id
  policy = data.aws_iam_policy_document.connect.json
}

# Plugins cannot be changed: a new object is a new plugin, so its name has the version.
resource "aws_mskconnect_custom_plugin" "debezium" {
  count = var.connector == null ? 0 : 1

  name         = "${var.name}-debezium-${substr(sha1("${var.plugin.key} ${var.plugin.version}"), 0, 8)}"
  content_type = "ZIP"

  location {
    s3 {
      bucket_arn     = var.plugin.bucket_arn
      file_key       = var.plugin.key
      object_version = var.plugin.version
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_mskconnect_worker_configuration" "this" {
  name = "${var.name}-debezium"

  properties_file_content = <<-PROPERTIES
    key.converter=org.apache.kafka.connect.json.JsonConverter
    value.converter=org.apache.kafka.connect.json.JsonConverter
    key.converter.schemas.enable=false
    value.converter.schemas.enable=false
    value.converter.replace.null.with.default=false
    offset.flush.interval.ms=1000
    config.providers=secretsmanager
    config.providers.secretsmanager.class=com.amazonaws.kafka.config.providers.SecretsManagerConfigProvider
    config.providers.secretsmanager.param.region=${var.region}
  PROPERTIES
}

resource "aws_mskconnect_connector" "debezium" {
  count = var.connector == null ? 0 : 1

  name                       = "${var.name}-debezium"
  description                = "Changes of all tables of the publication, in the order of the commits."
  kafkaconnect_version       = "3.7.x"
  service_execution_role_arn = aws_iam_role.connect.arn

  # As the development stack's Debezium, which tests run.
  connector_configuration = {
    "connector.class"                    = "io.debezium.connector.postgresql.PostgresConnector"
    "tasks.max"                          = "1"
    "database.hostname"                  = var.connector.host
    "database.port"                      = "5432"
    "database.dbname"                    = var.connector.database
    "database.user"                      = var.connector.role
    "database.password"                  = "$${secretsmanager:${urlencode(var.connector.secret_arn)}:password}" # Its colons would part path and key.
    "database.sslmode"                   = "require"                                                            # Not verify-full: a worker has no file of the authorities of RDS.
    "topic.prefix"                       = "atlas"
    "plugin.name"                        = "pgoutput"
    "slot.name"                          = var.connector.slot
    "slot.drop.on.stop"                  = "false"
    "publication.name"                   = var.connector.publication
    "publication.autocreate.mode"        = "disabled"
    "schema.include.list"                = "atlas"
    "table.include.list"                 = join(",", [for table in var.connector.tables : "atlas.${table}"])
    "snapshot.mode"                      = "no_data"
    "decimal.handling.mode"              = "string"
    "provide.transaction.metadata"       = "true"
    "heartbeat.interval.ms"              = "1000"
    "poll.interval.ms"                   = "50"
    "transforms"                         = "together"
    "transforms.together.type"           = "org.apache.kafka.connect.transforms.RegexRouter"
    "transforms.together.regex"          = ".*"
    "transforms.together.replacement"    = var.changes_topic
    "producer.override.compression.type" = "zstd"
    "producer.override.max.request.size" = "16777216"
  }

  capacity {
    # One slot has one reader: more workers would not be faster.
    provisioned_capacity {
      mcu_count    = var.size.connect_mcu
      worker_count = 1
    }
  }

  kafka_cluster {
    apache_kafka_cluster {
      bootstrap_servers = aws_msk_cluster.this.bootstrap_brokers_sasl_iam

      vpc {
        security_groups = [var.connect_security_group_id]
        subnets         = var.connect_subnet_ids
      }
    }
  }

  kafka_cluster_client_authentication {
    authentication_type = "IAM"
  }

  kafka_cluster_encryption_in_transit {
    encryption_type = "TLS"
  }

  plugin {
    custom_plugin {
      arn      = aws_mskconnect_custom_plugin.debezium[0].arn
      revision = aws_mskconnect_custom_plugin.debezium[0].latest_revision
    }
  }

  worker_configuration {
    arn      = aws_mskconnect_worker_configuration.this.arn
    revision = aws_mskconnect_worker_configuration.this.latest_revision
  }

  log_delivery {
    worker_log_delivery {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.this["connect"].name
      }
    }
  }

  depends_on = [aws_iam_role_policy.connect, aws_msk_topic.changes]
}
