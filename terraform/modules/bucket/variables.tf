variable "name_prefix" {
  description = "Begin of the bucket's name; AWS adds the rest."
  type        = string

  validation {
    condition     = length(var.name_prefix) <= 37
    error_message = "name_prefix may have 37 characters at most."
  }
}

variable "kms_key_arn" {
  description = "Key of its objects; null: S3's own, for deliveries that know no other."
  type        = string
  default     = null
}

variable "expire_days" {
  description = "Objects are deleted after so many days; null: never."
  type        = number
  default     = null
}

variable "access_log" {
  description = "Bucket in which accesses are logged; null: none, as for the bucket of logs itself."
  type        = object({ bucket_id = string })
  default     = null
}

variable "policy_documents" {
  description = "Policies by purpose in which BUCKET stands for the bucket's ARN; added to the refusal of plain HTTP."
  type        = list(string)
  default     = []
}
