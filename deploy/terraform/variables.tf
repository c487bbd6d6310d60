variable "bucket" {
  description = "The bucket's name."
  type        = string
}

variable "prefix" {
  description = "Where in the bucket the archive is, without slashes around it: s3://BUCKET/PREFIX."
  type        = string
  default     = "erp"

  validation {
    condition     = var.prefix != "" && trim(var.prefix, "/") == var.prefix
    error_message = "The prefix is not empty, and has no slash at its beginning or end."
  }
}

variable "name" {
  description = "What the policies' names begin with."
  type        = string
  default     = "afterimage"
}

variable "kms_key_arn" {
  description = "Key to encrypt objects with; with the store's own keys (SSE-S3) where it is null. Its own policy must let this account's policies decide."
  type        = string
  default     = null
}

variable "object_lock_days" {
  description = "For so many days no version of an object can be destroyed; no Object Lock where it is null. It is decided when the bucket is made."
  type        = number
  default     = null
}

variable "object_lock_mode" {
  description = "GOVERNANCE, which a privileged principal can lift, or COMPLIANCE, which nobody can."
  type        = string
  default     = "GOVERNANCE"

  validation {
    condition     = contains(["GOVERNANCE", "COMPLIANCE"], var.object_lock_mode)
    error_message = "GOVERNANCE or COMPLIANCE."
  }
}

variable "noncurrent_days" {
  description = "For so many days what was replaced or deleted can be brought back; for ever where it is null."
  type        = number
  default     = 30
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
