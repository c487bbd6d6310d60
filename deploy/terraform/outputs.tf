output "archive" {
  description = "What --archive takes."
  value       = "s3://${aws_s3_bucket.archive.id}/${var.prefix}"
}

output "policies" {
  description = "The policies' ARNs, to be attached to the roles of whoever reads, records and archives."
  value = {
    reader   = aws_iam_policy.reader.arn
    recorder = aws_iam_policy.recorder.arn
    archiver = aws_iam_policy.archiver.arn
  }
}

output "environment" {
  description = "Variables that the archiver needs. Where versions are retained by Object Lock, S3 takes an object only with its checksum."
  value       = var.object_lock_days == null ? {} : { AWS_CHECKSUM_ALGORITHM = "SHA256" }
}
