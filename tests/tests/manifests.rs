//! The Kubernetes chart and the manifests that are made of it: by helm and kubectl, and against the schemas of Kubernetes.

use std::collections::BTreeSet;
use std::fs;

use mtls_kube_double::{Double, json};
use mtls_tests::could_not_run;
use mtls_tests::lab::program_beside_the_test;
use mtls_tests::manifests::schema::{Schemas, strict};
use mtls_tests::manifests::{Chart, objects, only, root};
use mtls_tests::programs::kubectl::{self, Kubectl};
use serde_json::Value;

/// Every optional part by itself, and all of them.
const VARIANTS: [&[&str]; 7] = [
    &[],
    &[
        "--set=serviceMonitor.enabled=true",
        "--set=metrics.listen=0.0.0.0:9465",
        "--set=serviceMonitor.labels.release=prometheus",
    ],
    &["--set=certManager.enabled=true", "--set=certManager.namespace=issuing"],
    &["--set=kubernetes.policies={mtlsd,istio}"],
    &[
        "--set=seccompLocalhostProfile=mtlsd.json",
        "--set=seLinuxType=spc_t",
        "--set=kubernetes.cgroupRoot=/kubelet",
        "--set=kubernetes.networks={10.244.0.0/16,fd00:96::/112}",
    ],
    &["--set=uninstall=true"],
    ALL,
];
const ALL: &[&str] = &[
    "--set=namespace.create=true",
    "--set=serviceMonitor.enabled=true",
    "--set=metrics.listen=[::]:9465",
    "--set=certManager.enabled=true",
    "--set=kubernetes.policies={mtlsd,istio}",
    "--set=kubernetes.defaultMode=strict",
    "--set=maxUnavailable=25%",
    "--set=podAnnotations.a=b",
    "--set=podLabels.team=x",
    "--set-json=imagePullSecrets=[{\"name\":\"registry\"}]",
    "--set-json=affinity={\"nodeAffinity\":{}}",
    "--set-json=config={\"identity\":{\"issuer\":\"spire\",\"issuers\":[{\"name\":\"spire\",\"workload_api\":{\"socket\":\"/spire/agent.sock\"}}]}}",
    "--set-json=extraVolumes=[{\"name\":\"spire\",\"hostPath\":{\"path\":\"/run/spire\"}}]",
    "--set-json=extraVolumeMounts=[{\"name\":\"spire\",\"mountPath\":\"/spire\",\"readOnly\":true}]",
];
/// What the pod may do. Each has its reason beside it in the chart, and in deploy/kubernetes/README.md; the suite `container` shows what
/// fails without it.
const CAPABILITIES: [&str; 5] = ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "IPC_LOCK"];

struct World {
    chart: Chart,
    kubectl: Kubectl,
    _double: Double,
}

/// `None`, and that is said: there is no helm or no kubectl.
fn world<T: Fn()>(test: T) -> Option<World> {
    match Chart::find().and_then(|chart| Ok((chart, kubectl::program()?))) {
        Ok((chart, program)) => {
            let double = Double::start();
            Some(World { chart, kubectl: Kubectl::of(&program, &double), _double: double })
        }
        Err(reason) => {
            could_not_run(test, &reason);
            None
        }
    }
}

impl World {
    fn objects(&self, values: &[&str]) -> Vec<Value> {
        objects(&self.kubectl, &self.chart.render(values))
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn texts(values: &Value) -> Vec<&str> {
    values.as_array().map(|values| values.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn the_manifests_are_what_the_chart_makes() {
    let Some(world) = world(the_manifests_are_what_the_chart_makes) else { return };
    let mut made = Vec::new();
    for entry in fs::read_dir(root().join("deploy/kubernetes/manifests")).expect("there are some") {
        let path = entry.expect("it can be read").path();
        made.push(fs::read_to_string(&path).expect("it is text"));
    }
    let documents = |text: &str| -> BTreeSet<String> {
        let parts = text.split("\n---\n").map(|part| part.trim().trim_start_matches("---\n"));
        // helm says before each document, or before each file, where it is from.
        let own = parts.map(|part| {
            let lines = part.lines().filter(|line| !line.starts_with("# Source: "));
            lines.collect::<Vec<_>>().join("\n").trim().to_owned()
        });
        own.filter(|part| !part.is_empty()).collect()
    };
    let committed: BTreeSet<_> = made.iter().flat_map(|text| documents(text)).collect();
    let rendered = documents(&world.chart.render(&["--set=namespace.create=true"]));
    assert!(committed.len() > 5);
    assert_eq!(committed, rendered, "run: cargo xtask manifests");
}

#[test]
fn every_manifest_fits_the_schemas_of_kubernetes() {
    let Some(world) = world(every_manifest_fits_the_schemas_of_kubernetes) else { return };
    let mut monitors = 0;
    for version in ["1.30", "1.35"] {
        let schemas = match Schemas::of(version) {
            Ok(schemas) => schemas,
            Err(reason) => return could_not_run(every_manifest_fits_the_schemas_of_kubernetes, &reason),
        };
        for values in VARIANTS {
            for object in world.objects(values) {
                match schemas.judge(&object) {
                    Some(faults) => assert!(faults.is_empty(), "{version}, {values:?}: {faults:#?}"),
                    None => {
                        assert_eq!(object["kind"], "ServiceMonitor");
                        let faults = Schemas::alone().faults(&service_monitor(), &object);
                        assert!(faults.is_empty(), "{values:?}: {faults:#?}");
                        monitors += 1;
                    }
                }
            }
        }
        let mut wrong = only(&world.objects(&[]), "DaemonSet").clone();
        wrong["spec"]["template"]["spec"]["hostPid"] = true.into();
        wrong["spec"]["minReadySeconds"] = "10".into();
        assert_eq!(schemas.judge(&wrong).expect("there is a schema").len(), 2, "both are noticed");
    }
    assert!(monitors > 0, "some variant has one");
    let mut wrong = only(&world.objects(ALL), "ServiceMonitor").clone();
    wrong["spec"]["endpoints"][0]["intervall"] = "30s".into();
    wrong["spec"]["endpoints"][0]["relabelings"][0]["targetLabel"] = 7.into();
    let _ = wrong["spec"].as_object_mut().expect("it is an object").remove("selector");
    assert_eq!(Schemas::alone().faults(&service_monitor(), &wrong).len(), 3, "each is noticed");
}

/// As much of a ServiceMonitor (`monitoring.coreos.com/v1`, Prometheus operator's API reference) as the chart may come to use: no
/// package of the registries has its schema. What is not named here is refused.
fn service_monitor() -> Value {
    let object = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let (text, texts) =
        (json!({ "type": "string" }), json!({ "type": "array", "items": { "type": "string" } }));
    let map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let number = json!({ "type": "integer" });
    let relabeling = object(
        json!({ "sourceLabels": texts, "targetLabel": text, "separator": text, "regex": text, "replacement": text,
                "modulus": number, "action": text }),
        &[],
    );
    let endpoint = object(
        json!({ "port": text, "path": text, "scheme": { "enum": ["http", "https"] }, "interval": text,
                "scrapeTimeout": text, "honorLabels": { "type": "boolean" },
                "relabelings": { "type": "array", "items": relabeling },
                "metricRelabelings": { "type": "array", "items": relabeling } }),
        &[],
    );
    let spec = object(
        json!({ "selector": object(json!({ "matchLabels": map }), &[]), "jobLabel": text, "targetLabels": texts,
                "podTargetLabels": texts, "sampleLimit": number,
                "namespaceSelector": object(json!({ "matchNames": texts, "any": { "type": "boolean" } }), &[]),
                "endpoints": { "type": "array", "items": endpoint } }),
        &["selector", "endpoints"],
    );
    object(
        json!({ "apiVersion": { "enum": ["monitoring.coreos.com/v1"] }, "kind": { "enum": ["ServiceMonitor"] },
                "metadata": object(json!({ "name": text, "namespace": text, "labels": map }), &["name"]), "spec": spec }),
        &["apiVersion", "kind", "metadata", "spec"],
    )
}

/// `--validate=false`: the double has no OpenAPI document; the schemas are the test above.
#[test]
fn kubectl_takes_every_manifest() {
    let Some(world) = world(kubectl_takes_every_manifest) else { return };
    for values in VARIANTS {
        let text = world.chart.render(values);
        let file = world.kubectl.file("all.yaml", &text);
        let said = world.kubectl.ok(&["apply", "--dry-run=client", "--validate=false", "-f", &file]);
        let taken = said.lines().filter(|line| line.ends_with("created (dry run)")).count();
        assert_eq!(taken, objects(&world.kubectl, &text).len(), "{said}");
    }
    let directory = root().join("deploy/kubernetes/manifests").display().to_string();
    // Nobody may read the checkout: kubectl does not run as root.
    let mut whole = String::new();
    for entry in fs::read_dir(&directory).expect("it is there") {
        whole += &fs::read_to_string(entry.expect("it can be read").path()).expect("it is text");
        whole += "\n---\n";
    }
    let file = world.kubectl.file("manifests-all.yaml", &whole);
    let said = world.kubectl.ok(&["apply", "--dry-run=client", "--validate=false", "-f", &file]);
    for object in ["namespace/mtlsd-system", "daemonset.apps/mtlsd", "mutualtlspolicies.mtlsd.io"] {
        assert!(said.contains(&format!("{object} created (dry run)")), "{said}");
    }
}

/// Group, resource and verb of every rule of these roles.
fn granted(roles: &[&Value]) -> BTreeSet<(String, String, String)> {
    let mut granted = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().into_iter().flatten()) {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let verbs = texts(&rule["verbs"]).into_iter();
                granted.extend(verbs.map(|verb| (group.to_owned(), resource.to_owned(), verb.to_owned())));
            }
        }
    }
    granted
}

/// The list is made of the daemon's own (`mtls-daemon/src/kube/rights.rs`), which a unit test there compares.
#[test]
fn the_roles_grant_what_the_code_lists_and_nothing_else() {
    let Some(world) = world(the_roles_grant_what_the_code_lists_and_nothing_else) else { return };
    let list: Value = serde_json::from_str(&read("deploy/kubernetes/chart/files/rights.json")).unwrap();
    let listed = |when: &[&str]| {
        let mut listed = BTreeSet::new();
        for right in list.as_array().unwrap() {
            let text = |key: &str| right[key].as_str().unwrap().to_owned();
            if when.contains(&text("when").as_str()) {
                let verbs = texts(&right["verbs"]).into_iter();
                listed.extend(verbs.map(|verb| (text("apiGroup"), text("resource"), verb.to_owned())));
            }
        }
        listed
    };
    let of = |objects: &[Value], kind: &str| {
        granted(&objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>())
    };
    for (policies, when) in [
        ("[]", &["always"][..]),
        (r#"["mtlsd"]"#, &["always", "mtlsd"]),
        (r#"["istio"]"#, &["always", "istio"]),
        (r#"["mtlsd","istio"]"#, &["always", "mtlsd", "istio"]),
    ] {
        let values = format!("--set-json=kubernetes.policies={policies}");
        let objects = world.objects(&[&values]);
        assert_eq!(of(&objects, "ClusterRole"), listed(when), "{policies}");
        assert!(of(&objects, "Role").is_empty());
    }
    let objects = world.objects(ALL);
    assert_eq!(of(&objects, "Role"), listed(&["certManager"]));
    // In the release's own namespace, since none is named; and nobody else has the roles.
    let account = json!([{ "kind": "ServiceAccount", "name": "mtlsd", "namespace": "mtlsd-system" }]);
    assert_eq!(only(&objects, "Role")["metadata"]["namespace"], "mtlsd-system");
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        assert_eq!(only(&objects, kind)["subjects"], account);
    }
    let all = granted(&objects.iter().collect::<Vec<_>>());
    assert!(
        !all.iter()
            .any(|(group, resource, verb)| [group, resource, verb].iter().any(|word| word.contains('*')))
    );
    assert!(!all.iter().any(|(_, resource, _)| resource == "secrets"), "keys are the daemon's own");
}

#[test]
fn the_pod_has_no_right_without_a_reason() {
    let Some(world) = world(the_pod_has_no_right_without_a_reason) else { return };
    let objects = world.objects(&[]);
    let pod = &only(&objects, "DaemonSet")["spec"]["template"]["spec"];
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!((&context["privileged"], &context["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
    assert_eq!(context["capabilities"], json!({ "drop": ["ALL"], "add": CAPABILITIES }));
    assert_eq!(context["seccompProfile"], json!({ "type": "RuntimeDefault" }));
    let (template, readme) =
        (read("deploy/kubernetes/chart/templates/daemonset.yaml"), read("deploy/kubernetes/README.md"));
    let has_reason = |line: &str| {
        let lines: Vec<_> = template.lines().map(str::trim).collect();
        let at = lines.iter().position(|l| l.contains(line)).unwrap_or_else(|| panic!("no line {line}"));
        lines[at - 1].starts_with('#')
    };
    for capability in CAPABILITIES {
        assert!(has_reason(&format!("- {capability}")), "{capability}");
        assert!(readme.contains(&format!("| `{capability}` |")), "{capability} is not in the README");
    }
    for key in ["hostNetwork: true", "hostPID: true", "appArmorProfile:"] {
        assert!(has_reason(key), "{key}");
    }
    let with_direct = world.objects(&["--set=direct.enabled=true"]);
    let with_direct = &only(&with_direct, "DaemonSet")["spec"]["template"]["spec"];
    let volumes = with_direct["volumes"].as_array().unwrap();
    for volume in volumes.iter().filter(|volume| volume["hostPath"].is_object()) {
        let name = volume["name"].as_str().unwrap();
        assert!(has_reason(&format!("- {{ name: {name}, mountPath")), "{name}");
        let path = volume["hostPath"]["path"].as_str().unwrap();
        assert!(readme.contains(&format!("| `{path}` |")), "{path} is not in the README");
    }
    let writable = |pod: &Value| -> Vec<String> {
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap().iter();
        let writable = mounts.filter(|mount| mount["readOnly"] != true);
        writable.map(|mount| mount["mountPath"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(writable(pod), ["/sys/fs/bpf", "/run/mtlsd", "/var/lib/mtlsd"]);
    assert_eq!(writable(with_direct), ["/sys/fs/bpf", "/run/mtlsd", "/var/lib/mtlsd", "/host/proc/sys/net"]);
}

#[test]
fn probes_ask_where_the_daemon_listens_and_a_rolling_update_waits_for_them() {
    let Some(world) = world(probes_ask_where_the_daemon_listens_and_a_rolling_update_waits_for_them) else {
        return;
    };
    for (listen, host, port) in [
        ("127.0.0.1:9465", "127.0.0.1", 9465),
        ("0.0.0.0:1234", "127.0.0.1", 1234),
        ("[::]:9465", "::1", 9465),
        ("10.0.0.9:9465", "10.0.0.9", 9465),
    ] {
        let objects = world.objects(&[&format!("--set=metrics.listen={listen}")]);
        let daemons = only(&objects, "DaemonSet");
        let container = &daemons["spec"]["template"]["spec"]["containers"][0];
        for (probe, path) in
            [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz"), ("startupProbe", "/healthz")]
        {
            assert_eq!(container[probe]["httpGet"], json!({ "host": host, "port": "metrics", "path": path }));
        }
        assert_eq!(container["ports"][0]["containerPort"], port);
        assert_eq!(
            daemons["spec"]["updateStrategy"],
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 0 } })
        );
        assert_eq!(daemons["spec"]["template"]["spec"]["priorityClassName"], "system-node-critical");
    }
    // What ends by itself is never ready: it must not wait for the other nodes.
    let objects = world.objects(&["--set=uninstall=true"]);
    let daemons = only(&objects, "DaemonSet");
    let container = &daemons["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["args"], &container["readinessProbe"]), (&json!(["uninstall"]), &Value::Null));
    assert_eq!(daemons["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");
}

#[test]
fn values_that_cannot_work_are_refused_by_name() {
    let Some(world) = world(values_that_cannot_work_are_refused_by_name) else { return };
    for (values, said) in [
        ("--set=imagee.tag=1", "imagee"),
        ("--set=kubernetes.defaultMode=lax", "defaultMode"),
        ("--set=kubernetes.policies={opa}", "policies"),
        ("--set=kubernetes.networks={pods}", "networks"),
        ("--set=metrics.listen=9465", "listen"),
        ("--set=image.digest=latest", "digest"),
        ("--set=serviceMonitor.enabled=true", "Prometheus cannot reach metrics.listen 127.0.0.1:9465"),
    ] {
        let why = world.chart.try_render(&[values]).expect_err(values);
        assert!(why.contains(said), "{values}: {why}");
    }
    let (ok, said) = world.chart.helm(&["lint", "--strict", "deploy/kubernetes/chart"]);
    assert!(ok, "{said}");
}

#[test]
fn the_chart_has_the_version_of_the_daemon() {
    let version = format!("ersion: {}", env!("CARGO_PKG_VERSION"));
    let chart = read("deploy/kubernetes/chart/Chart.yaml");
    assert_eq!(chart.lines().filter(|line| line.ends_with(&version)).count(), 2, "version and appVersion");
}

#[test]
fn the_daemon_takes_the_configuration_that_the_chart_writes() {
    let Some(world) = world(the_daemon_takes_the_configuration_that_the_chart_writes) else { return };
    let directory = std::env::temp_dir().join(format!("mtlsd-manifests-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("there is room");
    for (number, values) in VARIANTS.iter().enumerate() {
        let objects = world.objects(values);
        let text = only(&objects, "ConfigMap")["data"]["mtlsd.yaml"].as_str().expect("it is text");
        let file = directory.join(format!("{number}.yaml"));
        fs::write(&file, text).expect("there is room");
        let mtlsd =
            std::env::var_os("MTLSD_BIN").map_or_else(|| program_beside_the_test("mtlsd"), Into::into);
        let checked = std::process::Command::new(mtlsd)
            .args(["config", "check", "--config"])
            .arg(&file)
            .output()
            .expect("mtlsd starts");
        let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        assert!(checked.status.success(), "{values:?}: {said}\n{text}");
    }
    let _ = fs::remove_dir_all(&directory);
}

#[test]
fn the_schema_of_a_policy_takes_what_it_should_and_refuses_the_rest() {
    let Some(world) = world(the_schema_of_a_policy_takes_what_it_should_and_refuses_the_rest) else { return };
    let objects = world.objects(&[]);
    let definition = only(&objects, "CustomResourceDefinition");
    let version = &definition["spec"]["versions"][0];
    assert_eq!((&version["name"], &version["subresources"]), (&json!("v1alpha1"), &json!({ "status": {} })));
    let schema = strict(&version["schema"]["openAPIV3Schema"]);
    let faults = |spec: &Value| {
        let policy = json!({
            "apiVersion": "mtlsd.io/v1alpha1", "kind": "MutualTLSPolicy",
            "metadata": { "name": "p", "namespace": "shop" }, "spec": spec,
        });
        Schemas::alone().faults(&schema, &policy)
    };
    let good = json!({
        "selector": { "matchLabels": { "app": "web" } }, "mode": "strict", "ports": { "8080": "disabled" },
        "rules": [{ "name": "api", "action": "allow", "from": { "namespaces": ["api"] } }],
    });
    assert_eq!(faults(&good), Vec::<String>::new());
    for (bad, said) in [
        (json!({ "mode": "lax" }), ".spec.mode"),
        (json!({ "ports": { "8080": "lax" } }), ".spec.ports.8080"),
        (json!({ "mod": "strict" }), ".spec.mod: there is no such field"),
        (json!({ "rules": "all" }), ".spec.rules"),
    ] {
        let faults = faults(&bad);
        assert!(faults.iter().any(|fault| fault.starts_with(said)), "{bad}: {faults:?}");
    }
}
