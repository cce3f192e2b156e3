//! What there is: `/api`, `/apis` and so on, in the form that every kubectl understands.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::answer::Failure;
use crate::resource::{RESOURCES, Resource};

/// The answer to a path of discovery.
pub(crate) fn answer(path: &str) -> Result<Value, Failure> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["api"] => Ok(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })),
        ["apis"] => {
            let groups: BTreeSet<_> =
                RESOURCES.iter().map(|one| one.group).filter(|one| !one.is_empty()).collect();
            let groups: Vec<_> = groups.into_iter().filter_map(group).collect();
            Ok(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", name] => group(name).ok_or_else(Failure::no_such_path),
        ["api", version] => resources("", version),
        ["apis", group, version] => resources(group, version),
        ["version"] => Ok(json!({
            "major": "1", "minor": "35", "gitVersion": "v1.35.2-double", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
        })),
        _ => Err(Failure::no_such_path()),
    }
}

fn group(name: &str) -> Option<Value> {
    let one = RESOURCES.iter().find(|one| one.group == name)?;
    let version = json!({ "groupVersion": one.api_version(), "version": one.version });
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version,
    }))
}

fn resources(group: &str, version: &str) -> Result<Value, Failure> {
    let of = |one: &&Resource| one.group == group && one.version == version;
    let entries: Vec<Value> = RESOURCES.iter().filter(of).flat_map(entries).collect();
    if entries.is_empty() {
        return Err(Failure::no_such_path());
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries }))
}

fn entries(one: &Resource) -> Vec<Value> {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let mut entries = vec![json!({
        "name": one.plural, "singularName": one.singular, "namespaced": one.namespaced, "kind": one.kind,
        "verbs": verbs, "shortNames": one.short,
    })];
    if one.status {
        entries.push(json!({
            "name": format!("{}/status", one.plural), "singularName": "", "namespaced": one.namespaced,
            "kind": one.kind, "verbs": ["get", "patch", "update"],
        }));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_found_by_its_group_and_version() {
        for one in RESOURCES {
            let path = if one.group.is_empty() {
                "/api/v1".to_owned()
            } else {
                format!("/apis/{}", one.api_version())
            };
            let found = answer(&path).unwrap();
            let names: Vec<_> =
                found["resources"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
            assert!(names.contains(&&json!(one.plural)), "{path}");
        }
        assert_eq!(answer("/apis").unwrap()["groups"].as_array().unwrap().len(), 8);
        assert_eq!(answer("/apis/unknown").unwrap_err().code, 404);
        assert_eq!(answer("/openapi/v3").unwrap_err().code, 404);
    }
}
