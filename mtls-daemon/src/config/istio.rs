//! Files of Istio's resources among the drop-ins: told apart, and cut into documents.

use serde::de::DeserializeOwned;

use super::at::{At, Spot};
use super::check::Check;
use super::error::{Fault, Quoted};
use super::raw::istio::{AuthorizationPolicy, Envelope, PeerAuthentication, Resource};
use super::yaml;

/// A resource and where it begins.
#[derive(Debug)]
pub(super) enum IstioResource {
    Modes(Resource<PeerAuthentication>),
    Rules(Resource<AuthorizationPolicy>),
}

const GROUP: &str = "security.istio.io/";

/// Whether the file holds resources of Kubernetes, and no keys of ours.
pub(super) fn is_resources(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("apiVersion:"))
}

/// Reads every document of the file.
pub(super) fn parse(check: &mut Check, text: &str) -> Vec<At<IstioResource>> {
    documents(text).into_iter().filter_map(|(document, spot)| resource(check, &document, spot)).collect()
}

/// Each document with empty lines in the place of what stands before it, so that places stay right.
fn documents(text: &str) -> Vec<(String, Spot)> {
    let mut documents = Vec::new();
    let mut document = String::new();
    let mut begin = 0;
    let ends = |line: &str| line == "---" || line.starts_with("--- ") || line == "...";
    for (number, line) in (0_u64..).zip(text.lines()) {
        if ends(line.trim_end()) {
            documents.push((std::mem::take(&mut document), begin));
            document.extend((0..=number).map(|_| '\n'));
            begin = number + 1;
        } else {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.push((document, begin));
    let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    documents.retain(|(document, _)| !document.lines().all(is_empty));
    documents.into_iter().map(|(document, begin)| (document, Spot { line: begin + 1, column: 1 })).collect()
}

/// Reads one document.
pub(super) fn resource(check: &mut Check, document: &str, spot: Spot) -> Option<At<IstioResource>> {
    let Envelope { api_version, kind } = read(check, document)?;
    if !api_version.value.starts_with(GROUP) {
        check.fault(api_version.spot, Fault::NotIstio(Quoted::new(&api_version.value)));
        return None;
    }
    let value = match kind.value.as_str() {
        "PeerAuthentication" => IstioResource::Modes(read(check, document)?),
        "AuthorizationPolicy" => IstioResource::Rules(read(check, document)?),
        other => {
            check.fault(kind.spot, Fault::IstioKind(Quoted::new(other)));
            return None;
        }
    };
    Some(At { value, spot })
}

fn read<T: DeserializeOwned>(check: &mut Check, document: &str) -> Option<T> {
    yaml::parse(document).map_err(|(spot, fault)| check.fault(spot, fault)).ok()
}
