variable "name" {
  description = "Name of namespace and workgroup, as atlas-prod."
  type        = string
}

variable "account_id" {
  description = "The account, for the trust of the COPY role."
  type        = string
}

variable "region" {
  description = "The region, for the key's condition."
  type        = string
}

variable "database" {
  description = "The database in the namespace."
  type        = string
}

variable "size" {
  description = "Capacity in RPU, and the RPU hours of a day after which queries are refused."
  type = object({
    base_rpu        = number
    max_rpu         = number
    rpu_hours_a_day = number
  })

  validation {
    condition     = var.size.base_rpu >= 8 && var.size.base_rpu % 8 == 0 && var.size.max_rpu >= var.size.base_rpu
    error_message = "base_rpu is to be a multiple of 8, max_rpu at least as much."
  }
}

variable "subnet_ids" {
  description = "Isolated subnets in three zones."
  type        = list(string)
}

variable "security_group_id" {
  description = "The workgroup's security group."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the data and of the files under way."
  type        = string
}

variable "secrets_key_arn" {
  description = "Key of the secrets."
  type        = string
}

variable "bucket_arn" {
  description = "Bucket of files under way."
  type        = string
}

variable "prefix" {
  description = "Where in it; COPY reads nothing else."
  type        = string
}

variable "loader" {
  description = "Database user that loads. Its password is drawn here, the user made by hand: see README.md."
  type        = string
  default     = "atlas_loader"
}

variable "loader_password_version" {
  description = "Raise it by one to draw the loader's password anew; then set it, and restart the loader."
  type        = number
  default     = 1
}
