variable "name" {
  description = "Identifier of the primary, as atlas-prod; replicas are <name>-replica-1 and so on."
  type        = string
}

variable "database" {
  description = "The database."
  type        = string
}

variable "engine_version" {
  description = "Major version of PostgreSQL; minor ones come by themselves in the maintenance window."
  type        = string

  validation {
    condition     = tonumber(var.engine_version) >= 17
    error_message = "engine_version is to be 17 or later: before, standbys do not synchronise logical slots."
  }
}

variable "zones" {
  description = "Availability zones; replicas are spread over them."
  type        = list(string)
}

variable "subnet_ids" {
  description = "Isolated subnets."
  type        = list(string)
}

variable "security_group_id" {
  description = "Security group of all instances."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of storage, snapshots and performance data."
  type        = string
}

variable "secrets_key_arn" {
  description = "Key of the administrator's secret."
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

variable "protected" {
  description = "Whether the API refuses to delete the instances."
  type        = bool
}

variable "admin_password_version" {
  description = "Raise it by one to give the administrator a new password."
  type        = number
  default     = 1
}

variable "synchronized_standby_slots" {
  description = "Physical slots of the replicas that logical readers must not overtake; see README.md. Empty: none."
  type        = list(string)
  default     = []
}

variable "size" {
  description = "Instances and disks. iops and throughput (MiB/s) are for gp3 volumes of 400 GiB and more; null below."
  type = object({
    instance_class        = string
    replica_class         = string
    replicas              = number
    multi_az              = bool
    storage_gb            = number
    storage_gb_max        = number
    iops                  = optional(number)
    throughput            = optional(number)
    max_connections       = number
    backup_days           = number
    slot_wal_mb_max       = number
    max_wal_mb            = number
    insights_days         = number
    monitoring_interval_s = number
  })

  validation {
    condition     = var.size.replicas >= 0 && var.size.replicas <= 5
    error_message = "replicas is to be 0 to 5."
  }

  validation {
    condition     = var.size.storage_gb_max > var.size.storage_gb && var.size.slot_wal_mb_max < var.size.storage_gb * 1024 / 4
    error_message = "storage_gb_max is to be above storage_gb, and slots may hold less than a quarter of the disk: slot_wal_mb_max."
  }
}
