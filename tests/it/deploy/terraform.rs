//! The bucket and its policies. Terraform itself and its provider are offered by no package registry, so the files are parsed, and
//! what they allow is held against what each part of the program does with a store.

use super::{deployed, spoilt};
use crate::support::python;

/// Prints each policy with the actions that it allows, and each name that is used and not declared.
const POLICIES: &str = r#"
import glob, re, sys, hcl2
files = sys.argv[1:]
whole = {"variable": {}, "resource": {}, "data": {}, "locals": {}}
def plain(text):
    return text.strip('"')
for file in files:
    parsed = hcl2.load(open(file))
    for kind in ["variable", "resource", "data", "locals"]:
        for block in parsed.get(kind, []):
            for name, content in block.items():
                if name.startswith("__"):
                    continue
                if kind in ["resource", "data"]:
                    for inner, body in content.items():
                        whole[kind][f"{plain(name)}.{plain(inner)}"] = body
                else:
                    whole[kind][plain(name)] = content
text = "\n".join(open(file).read() for file in files)
text = re.sub(r"(?m)#.*$", "", text)
for name in sorted(set(re.findall(r"\bvar\.([a-z_]+)", text)) - set(whole["variable"])):
    print("undeclared variable", name)
for name in sorted(set(whole["variable"]) - set(re.findall(r"\bvar\.([a-z_]+)", text))):
    print("unused variable", name)
for name in sorted(set(re.findall(r"(?<!data\.)\b(aws_[a-z0-9_]+\.[a-z_]+)\.", text)) - set(whole["resource"])):
    print("undeclared resource", name)
for name in sorted(set(re.findall(r"\bdata\.([a-z_]+\.[a-z_]+)\.", text)) - set(whole["data"])):
    print("undeclared data", name)
for name, body in sorted(whole["data"].items()):
    for statement in body.get("statement", []):
        effect = plain(statement.get("effect", "Allow"))
        print(name.split(".")[1], effect, " ".join(sorted(map(plain, statement["actions"]))), "on", " ".join(map(plain, statement["resources"])))
    if body.get("source_policy_documents"):
        print(name.split(".")[1], "besides", re.findall(r"aws_iam_policy_document\.([a-z]+)", str(body["source_policy_documents"]))[0])
for name, body in sorted(whole["resource"].items()):
    if name.startswith("aws_s3_bucket"):
        print("has", name)
"#;

const EXPECTED: &str = "archiver Allow s3:AbortMultipartUpload s3:DeleteObject s3:PutObject on ${local.objects}/*
archiver besides reader
bucket Deny s3:* on ${aws_s3_bucket.archive.arn} ${aws_s3_bucket.archive.arn}/*
reader Allow s3:GetObject on ${local.objects}/*
reader Allow s3:ListBucket on ${aws_s3_bucket.archive.arn}
recorder Allow s3:PutObject on ${local.objects}/log/alerts/* ${local.objects}/log/health/*
recorder besides reader
has aws_s3_bucket.archive
has aws_s3_bucket_lifecycle_configuration.archive
has aws_s3_bucket_object_lock_configuration.archive
has aws_s3_bucket_ownership_controls.archive
has aws_s3_bucket_policy.archive
has aws_s3_bucket_public_access_block.archive
has aws_s3_bucket_server_side_encryption_configuration.archive
has aws_s3_bucket_versioning.archive
";

const FILES: [&str; 5] = ["versions.tf", "variables.tf", "main.tf", "iam.tf", "outputs.tf"];

#[test]
fn policies_allow_what_is_needed_and_no_more() {
    let paths = FILES.map(|file| deployed("terraform").join(file).display().to_string());
    assert_eq!(paths.len(), super::files("terraform").len(), "there is another file");
    assert_eq!(python(POLICIES, paths.iter().map(String::as_str)), EXPECTED);
}

#[test]
fn what_is_not_declared_is_seen() {
    let (_directory, variables) = spoilt("terraform/variables.tf", "variable \"bucket\"", "variable \"buket\"");
    let mut paths = FILES.map(|file| deployed("terraform").join(file).display().to_string());
    paths[1] = variables.display().to_string();
    let said = python(POLICIES, paths.iter().map(String::as_str));
    assert!(said.contains("undeclared variable bucket") && said.contains("unused variable buket"), "{said}");
}
