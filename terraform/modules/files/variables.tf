variable "name" {
  description = "Name of the file system, as atlas-prod."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the files."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets, one in each zone."
  type        = list(string)
}

variable "security_group_id" {
  description = "Security group of the mount targets."
  type        = string
}

variable "directories" {
  description = "Directories, each with an access point of its own: who mounts one sees nothing of the others."
  type        = set(string)
}

variable "user_id" {
  description = "User and group that own all files: the one of the images."
  type        = number
  default     = 10001
}
