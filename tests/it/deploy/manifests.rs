//! The manifests for Kubernetes.

use std::fs;
use std::process::Command;

use super::{deployed, spoilt};
use crate::support::{Directory, python};

/// Reads a directory of manifests: what Kubernetes' schemas say of each, and whether names in one place are names in another,
/// as kustomize and the cluster would see it.
const MANIFESTS: &str = r#"
import glob, os, sys, yaml, kubernetes_validate
os.chdir(sys.argv[1])
wrong, documents = [], []
kustomization = yaml.safe_load(open("kustomization.yaml"))
for file in sorted(glob.glob("*.yaml")):
    for document in yaml.safe_load_all(open(file)):
        documents.append((file, document))
        # These two are of other makers; the first is held against what follows.
        if document["apiVersion"].startswith("kustomize.") or document["apiVersion"].startswith("monitoring."):
            continue
        for version in ["1.29", "1.34"]:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except Exception as error:
                wrong.append(f"{file}: {document['kind']}: {error}")
outside = {"kustomization.yaml", "secret.example.yaml", "monitoring.yaml"}
if set(kustomization["resources"]) != {file for file, _ in documents} - outside:
    wrong.append("the kustomization has other resources than there are files")
def names(kind):
    return {one["metadata"]["name"]: one for _, one in documents if one["kind"] == kind}
maps = {one["name"]: one["files"] for one in kustomization["configMapGenerator"]}
for files in maps.values():
    wrong += [f"there is no {file}" for file in files if not os.path.exists(file)]
images = {one["name"] for one in kustomization["images"]}
secrets, services, accounts = names("Secret"), names("Service"), names("ServiceAccount")
pods = {**names("StatefulSet"), **names("Deployment")}
labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in pods.items()}
def selects(selector):
    return [name for name, has in labels.items() if selector.items() <= has.items()]
for name, one in pods.items():
    spec = one["spec"]["template"]["spec"]
    container = spec["containers"][0]
    if selects(one["spec"]["selector"]["matchLabels"]) != [name]:
        wrong.append(f"{name} selects other pods")
    if spec["serviceAccountName"] not in accounts:
        wrong.append(f"{name} runs as nobody")
    if container["image"] not in images:
        wrong.append(f"{name}: the image is not the kustomization's")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    if set(mounts) != set(volumes):
        wrong.append(f"{name}: {sorted(mounts)} are mounted, there are {sorted(volumes)}")
    for volume in volumes.values():
        if "configMap" in volume and volume["configMap"]["name"] not in maps:
            wrong.append(f"{name}: no such ConfigMap: {volume}")
        if "secret" in volume and volume["secret"]["secretName"] not in secrets:
            wrong.append(f"{name}: no such Secret: {volume}")
    for variable in container["env"]:
        directory, file = os.path.split(variable["value"])
        if directory == "/run/secrets/afterimage" and file not in secrets[name]["stringData"]:
            wrong.append(f"{name}: {variable['value']} is in no Secret")
    ports = {port["name"] for port in container["ports"]}
    # The archiver answers from the beginning; the endpoint waits for the archive.
    for probe in ["livenessProbe", "readinessProbe"] + ["startupProbe"] * ("startupProbe" in container):
        one_probe = container[probe]
        if (one_probe.get("httpGet") or one_probe["tcpSocket"])["port"] not in ports:
            wrong.append(f"{name}: the {probe} asks another port")
    pod, own = spec["securityContext"], container["securityContext"]
    restricted = (pod["runAsNonRoot"] and pod["seccompProfile"]["type"] == "RuntimeDefault" and own["capabilities"] == {"drop": ["ALL"]}
                  and own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] and not spec["automountServiceAccountToken"])
    if not restricted:
        wrong.append(f"{name} does not meet the restricted profile")
for name, one in services.items():
    if len(selects(one["spec"]["selector"])) != 1:
        wrong.append(f"the Service {name} selects no pods, or too many")
for kind in ["NetworkPolicy", "PodDisruptionBudget"]:
    for name, one in names(kind).items():
        selector = one["spec"].get("podSelector") or one["spec"].get("selector") or {}
        if "matchLabels" in selector and len(selects(selector["matchLabels"])) != 1:
            wrong.append(f"the {kind} {name} selects no pods, or too many")
for name, one in names("ServiceMonitor").items():
    wanted = one["spec"]["selector"]["matchLabels"]
    if len([1 for service in services.values() if wanted.items() <= service["metadata"]["labels"].items()]) != 1:
        wrong.append(f"the ServiceMonitor {name} finds no Service, or too many")
archiver = pods["afterimage-archiver"]
if archiver["kind"] != "StatefulSet" or archiver["spec"]["replicas"] != 1:
    wrong.append("there may be two archivers at a time")
print(len(documents), "documents")
print("\n".join(wrong))
"#;

fn objections(directory: &str) -> Vec<String> {
    let said = python(MANIFESTS, [directory]);
    let mut lines = said.lines().map(str::to_owned);
    let documents: usize = lines.next().unwrap().strip_suffix(" documents").unwrap().parse().unwrap();
    assert!(documents > 15, "only {documents} documents were found");
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn manifests_are_valid_and_hold_together() {
    assert_eq!(objections(deployed("kubernetes").to_str().unwrap()), Vec::<String>::new());
}

#[test]
fn a_manifest_that_is_wrong_is_seen() {
    for (pattern, replacement, objection) in [
        ("replicas: 1", "replicas: one", "StatefulSet: "),
        ("replicas: 1", "replicas: 2", "two archivers"),
        ("serviceName: ", "servceName: ", "StatefulSet: "),
        ("secretName: afterimage-archiver", "secretName: afterimage", "no such Secret"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "restricted"),
        ("path: /livez, port: http", "path: /livez, port: metrics", "another port"),
        ("/run/secrets/afterimage/pgpass", "/run/secrets/afterimage/password", "is in no Secret"),
    ] {
        let (_spoilt, file) = spoilt("kubernetes/archiver.yaml", pattern, replacement);
        let directory = Directory::new();
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(deployed("kubernetes")).arg(directory.path());
        assert!(copy.status().unwrap().success());
        fs::copy(file, directory.join("kubernetes/archiver.yaml")).unwrap();
        let said = objections(directory.join("kubernetes").to_str().unwrap());
        assert!(said.iter().any(|one| one.contains(objection)), "{replacement}: {said:?}");
    }
}
