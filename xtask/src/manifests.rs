//! `cargo xtask manifests`: the plain manifests, made of the chart by helm for those who have no helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::run::{Cmd, heading};
use crate::{repo, setup};

/// The chart, below the checkout.
const CHART: &str = "deploy/kubernetes/chart";
/// What is made of it.
const MANIFESTS: &str = "deploy/kubernetes/manifests";
/// What helm is asked. tests/tests/manifests.rs asks the same, and compares.
const ASKED: [&str; 8] = [
    "template",
    "mtlsd",
    CHART,
    "--namespace=mtlsd-system",
    "--set=namespace.create=true",
    "--include-crds",
    "--kube-version=1.35.0",
    "--output-dir",
];

/// Makes them anew and says which there are.
pub fn run() -> Result<ExitCode> {
    let root = repo::root()?;
    heading("making the manifests");
    let helm = setup::helm(&root)?;
    let made = render(&root, &helm)?;
    let place = root.join(MANIFESTS);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).with_context(|| format!("{} cannot be made", place.display()))?;
    for (name, text) in made {
        let path = place.join(&name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Name and text of each manifest, in the order in which `kubectl apply -f DIRECTORY` takes them: what others need comes first.
fn render(root: &Path, helm: &Path) -> Result<Vec<(String, String)>> {
    let out = repo::target_dir(root)?.join("manifests");
    let _ = fs::remove_dir_all(&out);
    Cmd::new(&helm.to_string_lossy()).args(ASKED).arg(&out).dir(root).read()?;
    let mut made = Vec::new();
    for directory in ["crds", "templates"] {
        for path in sorted(&out.join("mtlsd").join(directory))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            made.push((numbered(directory, &name), text));
        }
    }
    if made.is_empty() {
        bail!("helm made nothing of {CHART}");
    }
    Ok(made)
}

fn numbered(directory: &str, name: &str) -> String {
    let order = match (directory, name) {
        ("crds", _) | (_, "namespace.yaml") => 0,
        (_, "daemonset.yaml") => 2,
        _ => 1,
    };
    format!("{order}-{name}")
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let mut names = [
            ("templates", "daemonset.yaml"),
            ("templates", "rbac.yaml"),
            ("templates", "namespace.yaml"),
            ("crds", "x.yaml"),
        ]
        .map(|(directory, name)| numbered(directory, name));
        names.sort();
        assert_eq!(names, ["0-namespace.yaml", "0-x.yaml", "1-rbac.yaml", "2-daemonset.yaml"]);
    }
}
