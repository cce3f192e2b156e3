//! What the Kubernetes chart makes, as helm and kubectl see it.

pub mod schema;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::programs::downloaded;
use crate::programs::kubectl::Kubectl;

/// Where `cargo xtask test` puts helm, relative to the checkout.
const HELM: &str = "target/kubectl-1.35.2/helm/helm";

/// The checkout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The chart.
#[derive(Debug)]
pub struct Chart {
    helm: PathBuf,
}

impl Chart {
    /// With `MTLSD_TEST_HELM`, or what `cargo xtask test` has put there.
    ///
    /// # Errors
    /// What to do where there is no helm.
    pub fn find() -> Result<Self, String> {
        Ok(Self { helm: downloaded::program("helm", "MTLSD_TEST_HELM", HELM)? })
    }

    /// helm with these arguments: whether it succeeded, and what it said.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn helm(&self, args: &[&str]) -> (bool, String) {
        let command = Command::new(&self.helm).args(args).current_dir(root()).output();
        let output = command.expect("helm starts");
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// `helm template` with these values: the text, or what is wrong with them.
    ///
    /// # Errors
    /// What helm says.
    pub fn try_render(&self, values: &[&str]) -> Result<String, String> {
        let asked = [
            "template",
            "mtlsd",
            "deploy/kubernetes/chart",
            "--namespace=mtlsd-system",
            "--include-crds",
            "--kube-version=1.35.0",
        ];
        match self.helm(&[&asked, values].concat()) {
            (true, text) => Ok(text),
            (false, text) => Err(text),
        }
    }

    /// As [`Chart::try_render`].
    ///
    /// # Panics
    /// If helm refuses them.
    #[track_caller]
    pub fn render(&self, values: &[&str]) -> String {
        self.try_render(values).unwrap_or_else(|why| panic!("{values:?}: {why}"))
    }
}

/// The objects of manifests, read by kubectl, which sends nothing.
///
/// # Panics
/// If they are none.
#[track_caller]
pub fn objects(kubectl: &Kubectl, manifests: &str) -> Vec<Value> {
    let file = kubectl.file("manifests.yaml", manifests);
    let text = kubectl.ok(&["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", &file]);
    let read = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut objects = Vec::new();
    for object in read.map(|object| object.expect("kubectl prints JSON")) {
        match object["kind"].as_str() {
            Some("List") => objects.extend(object["items"].as_array().cloned().unwrap_or_default()),
            _ => objects.push(object),
        }
    }
    assert!(!objects.is_empty(), "no objects in {text}");
    objects
}

/// The object of this kind.
///
/// # Panics
/// If there is none, or more than one.
#[track_caller]
#[must_use]
pub fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => object,
        (one, _) => panic!("{} {kind}", if one.is_some() { "more than one" } else { "no" }),
    }
}
