//! Who probes workloads of this node.

use std::path::{Path, PathBuf};

use crate::config::at::At;
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::scalar;
use crate::config::types::Prober;
use crate::config::unit::UnitName;

use super::{Check, Seen};

/// So many cgroups of probers the kernel's table has room for.
pub const MAX_PROBERS: usize = 16;

pub(super) fn check(check: &mut Check, raw: &[At<raw::Prober>], root: Option<&At<String>>) -> Vec<Prober> {
    let root = root.map(|at| Path::new(&at.value));
    let mut units = Seen::new("unit", "write it once");
    let mut cgroups = Seen::new("cgroup", "write it once");
    if let Some(over) = raw.get(MAX_PROBERS) {
        check.fault(over.spot, Fault::TooManyProbers(raw.len()));
    }
    let mut probers = Vec::new();
    for at in raw {
        match (&at.value.unit.0, &at.value.cgroup.0) {
            (Some(unit), None) => {
                let Some(name) = check.text(unit, str::parse::<UnitName>, Fault::Unit) else { continue };
                if name.as_str().ends_with(".slice") {
                    check.fault(unit.spot, Fault::ProberSlice(Quoted::new(name.as_str())));
                }
                units.note(check, &name, name.as_str(), unit.spot);
                probers.push(Prober::Unit(name));
            }
            (None, Some(cgroup)) => {
                let parse = |text: &str| scalar::cgroup(text, root);
                let Some(path) = check.text(cgroup, parse, Fault::Cgroup) else { continue };
                cgroups.note(check, &path, &cgroup.value, cgroup.spot);
                probers.push(Prober::Cgroup(PathBuf::from(&cgroup.value)));
            }
            _ => check.fault(at.spot, Fault::ProberForm),
        }
    }
    probers
}
