//! Files of policy tests: connections, and what shall become of them.

use std::net::IpAddr;
use std::path::Path;

use super::at::{At, Given};
use super::check::{Check, WHOLE_FILE};
use super::error::{ConfigError, Fault};
use super::raw::tests::{End as RawEnd, Expected, PolicyTests as RawTests};
use super::read::{self, Source};
use super::rule::Oid;
use super::{MAX_BYTES, yaml};
use crate::identity::{CertificateAttributes, SpiffeId};

/// One connection, and what shall become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTest {
    /// What people call it.
    pub name: String,
    /// Who connects.
    pub from: End,
    /// To whom.
    pub to: End,
    /// To which port.
    pub port: u16,
    /// Whether it may be.
    pub allow: bool,
    /// The rule that shall decide, or the default's name; `None`: any.
    pub rule: Option<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Who it is.
    pub who: Who,
    /// Where it is, if that is said.
    pub address: Option<IpAddr>,
}

/// Who an end is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A workload of the configuration, by name.
    Workload(String),
    /// Somebody with a certificate.
    Peer {
        /// Its SPIFFE ID.
        id: SpiffeId,
        /// What else it says.
        attributes: CertificateAttributes,
    },
    /// Somebody who proves nothing.
    Nobody,
}

/// Reads a file of tests.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_policy_tests(path: &Path) -> Result<Vec<PolicyTest>, ConfigError> {
    let mut check = Check::new();
    check.enter(path);
    let mut budget = MAX_BYTES;
    match read::read_file(path, &mut budget) {
        Ok(text) => parse(check, &text),
        Err(fault) => {
            check.fault(WHOLE_FILE, fault);
            Err(check.into_error())
        }
    }
}

/// Reads tests that were read elsewhere.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse_policy_tests(source: &Source) -> Result<Vec<PolicyTest>, ConfigError> {
    let mut check = Check::new();
    check.enter(&source.path);
    parse(check, &source.text)
}

fn parse(mut check: Check, text: &str) -> Result<Vec<PolicyTest>, ConfigError> {
    let raw: RawTests = match yaml::parse(text) {
        Ok(raw) => raw,
        Err((spot, fault)) => {
            check.fault(spot, fault);
            return Err(check.into_error());
        }
    };
    if raw.tests.is_empty() {
        check.fault(WHOLE_FILE, Fault::EmptyList("list tests: a file without any would always pass"));
    }
    let mut tests = Vec::new();
    for at in &raw.tests {
        let raw = &at.value;
        let from = end(&mut check, &raw.from);
        let to = end(&mut check, &raw.to);
        if let Some(port) = &raw.from.value.port.0 {
            check.fault(port.spot, Fault::TestPort);
        }
        let port = match &raw.to.value.port.0 {
            Some(at) => check.port(at),
            None => {
                check.fault(raw.to.spot, Fault::MissingKey("port"));
                None
            }
        };
        let (Some(from), Some(to), Some(port)) = (from, to, port) else { continue };
        let local = [&from, &to].iter().any(|end| matches!(end.who, Who::Workload(_)));
        if !local {
            check.fault(at.spot, Fault::TestWithoutWorkload);
        }
        let name = raw.name.value.clone();
        let allow = raw.expect.value == Expected::Allow;
        let rule = raw.rule.0.as_ref().map(|at| at.value.clone());
        tests.push(PolicyTest { name, from, to, port, allow, rule });
    }
    check.refuse_faults().map(|_| tests)
}

fn end(check: &mut Check, at: &At<RawEnd>) -> Option<End> {
    let raw = &at.value;
    let address = match &raw.address.0 {
        None => None,
        Some(at) => {
            Some(check.text(at, str::parse::<IpAddr>, |text, _| Fault::Address(text))?.to_canonical())
        }
    };
    let described =
        raw.organizations.0.is_some() || raw.organizational_units.0.is_some() || raw.extensions.0.is_some();
    let who = match (&raw.workload.0, &raw.spiffe_id.0) {
        (Some(name), None) if !described => Who::Workload(check.name(name)?),
        (None, Some(id)) => {
            let id = check.spiffe_id(id)?;
            Who::Peer { id, attributes: attributes(check, raw)? }
        }
        (None, None) if !described => Who::Nobody,
        _ => {
            check.fault(at.spot, Fault::TestEnd);
            return None;
        }
    };
    Some(End { who, address })
}

fn attributes(check: &mut Check, raw: &RawEnd) -> Option<CertificateAttributes> {
    let texts = |given: &Given<Vec<At<String>>>| -> Vec<Box<str>> {
        given.0.iter().flat_map(|at| &at.value).map(|at| at.value.as_str().into()).collect()
    };
    let mut extensions = Vec::new();
    for at in raw.extensions.0.iter().flat_map(|at| &at.value) {
        let oid: Oid = check.text(&at.value.oid, str::parse, Fault::Oid)?;
        extensions.push((oid.as_str().into(), at.value.value.value.as_str().into()));
    }
    Some(CertificateAttributes {
        organizations: texts(&raw.organizations),
        organizational_units: texts(&raw.organizational_units),
        extensions,
    })
}
