variable "name" {
  description = "Prefix of all names, as atlas-prod."
  type        = string
}

variable "source_arn" {
  description = "ARN of the primary in its region."
  type        = string
}

variable "kms_key_arn" {
  description = "Key in this region."
  type        = string
}

variable "retention_days" {
  description = "How long replicated automated backups are kept: so far back can be restored here."
  type        = number
}

variable "replica" {
  description = "A replica in this region; null: backups only."
  type = object({
    instance_class    = string
    subnet_ids        = list(string)
    security_group_id = string
    family            = string
    protected         = bool
    monitoring_arn    = string
  })
  default = null
}
