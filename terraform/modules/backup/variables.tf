variable "name" {
  description = "Prefix of all names, as atlas-prod."
  type        = string
}

variable "account_id" {
  description = "The account, for the role's trust."
  type        = string
}

variable "partition" {
  description = "The partition, as aws."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the vault."
  type        = string
}

variable "dr_region" {
  description = "The second region."
  type        = string
}

variable "dr_kms_key_arn" {
  description = "Key of the vault in the second region."
  type        = string
}

variable "days" {
  description = "How long daily backups are kept here."
  type        = number
}

variable "copy_days" {
  description = "How long their copies are kept in the second region; null: there are none."
  type        = number
  default     = null
}

variable "is_locked" {
  description = "Whether nobody, administrators included, can delete a backup before its time. Final after three days."
  type        = bool
}

variable "restore_tests" {
  description = "Whether the newest backup of the database is restored weekly, on trial."
  type        = bool
}

variable "database_arn" {
  description = "The database that is restored on trial."
  type        = string
}

variable "topic_arn" {
  description = "Topic that hears of failures."
  type        = string
}
