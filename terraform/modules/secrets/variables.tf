variable "name" {
  description = "Prefix of the secrets, as atlas-prod."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the secrets."
  type        = string
}

variable "database" {
  description = "Where the roles log in; the rotation reads it from the secret."
  type = object({
    host = string
    port = number
    name = string
  })
}

variable "roles" {
  description = "Database roles that log in."
  type        = set(string)
}

variable "services" {
  description = "Services with a certificate of their own."
  type        = set(string)
}

variable "passwords_version" {
  description = "Raise it by one to draw all roles' first passwords anew; then run the migration job, which sets them."
  type        = number
  default     = 1
}

variable "token_keys_version" {
  description = "Raise it by one to throw all token keys away: every token becomes invalid. Rotation is another thing, see README.md."
  type        = number
  default     = 1
}

variable "replica_region" {
  description = "Region that gets a copy of each secret; null: none."
  type        = string
  default     = null
}

variable "replica_key_arn" {
  description = "Key of the copies."
  type        = string
  default     = null
}
