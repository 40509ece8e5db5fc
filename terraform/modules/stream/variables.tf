variable "name" {
  description = "Name of the cluster, as atlas-prod."
  type        = string
}

variable "region" {
  description = "The region."
  type        = string
}

variable "account_id" {
  description = "The account."
  type        = string
}

variable "kafka_version" {
  description = "Version of the brokers."
  type        = string
}

variable "size" {
  description = "Brokers (a multiple of the three zones), their disks, and Connect's workers in MCU."
  type = object({
    brokers              = number
    broker_type          = string
    volume_gb            = number
    telemetry_partitions = number
    connect_mcu          = number
  })

  validation {
    condition     = var.size.brokers % 3 == 0 && contains([1, 2, 4, 8], var.size.connect_mcu)
    error_message = "brokers is to be a multiple of 3, connect_mcu 1, 2, 4 or 8."
  }
}

variable "subnet_ids" {
  description = "Isolated subnets of the brokers, one in each zone."
  type        = list(string)
}

variable "connect_subnet_ids" {
  description = "Private subnets of Connect's workers."
  type        = list(string)
}

variable "security_group_id" {
  description = "The brokers' security group."
  type        = string
}

variable "connect_security_group_id" {
  description = "The workers' security group."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the brokers' disks."
  type        = string
}

variable "secrets_key_arn" {
  description = "Key of the secrets; SCRAM asks for one of our own."
  type        = string
}

variable "logs_key_arn" {
  description = "Key of the logs."
  type        = string
}

variable "log_days" {
  description = "How long logs are kept."
  type        = number
}

variable "users" {
  description = "SCRAM users: one for each service that reads or writes."
  type        = set(string)
}

variable "user_passwords_version" {
  description = "Raise it by one to draw the users' passwords anew; then restart the services."
  type        = number
  default     = 1
}

variable "trust_path" {
  description = "Where clients have the PEM of trusted authorities."
  type        = string
}

variable "telemetry_topic" {
  description = "Topic of QueuedWrite that ingest reads."
  type        = string
}

variable "changes_topic" {
  description = "Topic with the changes of all tables, of one partition: their order is that of the commits."
  type        = string
}

variable "plugin" {
  description = "Debezium's zip with the configuration provider: bucket, key, and version of the object."
  type = object({
    bucket_arn = string
    key        = string
    version    = string
  })
}

variable "connector" {
  description = "What Debezium reads; null: no connector yet."
  type = object({
    host        = string
    database    = string
    role        = string
    secret_arn  = string
    publication = string
    slot        = string
    tables      = list(string)
  })
}
