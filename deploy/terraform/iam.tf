# What each part of Afterimage does with the store, and no more. Nobody may destroy versions, or change the bucket.
#
#   reader    serve, query, log, show, history, diff, blame, export, incident, status, doctor, verify, restore: a restore is noted by the
#             archiver, which finds it in the source's log
#   recorder  besides: guard ack, verify --record, drill, which note their outcome
#   archiver  besides: init, run, maintain

locals {
  objects = "${aws_s3_bucket.archive.arn}/${var.prefix}"
}

data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["${local.objects}/*"]
  }

  # Without it, an object that is not there would look like one that is forbidden.
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.archive.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [var.prefix, "${var.prefix}/*"]
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Decrypt"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

data "aws_iam_policy_document" "recorder" {
  source_policy_documents = [data.aws_iam_policy_document.reader.json]

  statement {
    sid       = "Note"
    actions   = ["s3:PutObject"]
    resources = ["${local.objects}/log/alerts/*", "${local.objects}/log/health/*"]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Encrypt"
      actions   = ["kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

data "aws_iam_policy_document" "archiver" {
  source_policy_documents = [data.aws_iam_policy_document.reader.json]

  # PutObject is conditional puts and multipart uploads too. DeleteObject is maintenance's; in a bucket with versions it only
  # hides.
  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"]
    resources = ["${local.objects}/*"]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Encrypt"
      actions   = ["kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "reader" {
  name        = "${var.name}-reader"
  description = "Reads the archive s3://${var.bucket}/${var.prefix}"
  policy      = data.aws_iam_policy_document.reader.json
  tags        = var.tags
}

resource "aws_iam_policy" "recorder" {
  name        = "${var.name}-recorder"
  description = "Reads the archive s3://${var.bucket}/${var.prefix}, and notes alerts and health"
  policy      = data.aws_iam_policy_document.recorder.json
  tags        = var.tags
}

resource "aws_iam_policy" "archiver" {
  name        = "${var.name}-archiver"
  description = "Writes the archive s3://${var.bucket}/${var.prefix}"
  policy      = data.aws_iam_policy_document.archiver.json
  tags        = var.tags
}
