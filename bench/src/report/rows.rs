//! Finding one's way in a run.

use super::text;
use crate::result::{Row, Run, System, Workload};

/// What a system is in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The floor.
    Plain,
    /// A datapath of ours.
    Mtlsd,
    /// What we are compared with.
    Peer,
}

impl Role {
    /// By the name that `--systems` has.
    pub fn of(system: &str) -> Self {
        match system {
            "plain" => Self::Plain,
            "auto" | "direct" => Self::Mtlsd,
            // An older build is what a change is compared with.
            name if name.ends_with(" (base)") => Self::Peer,
            name if name.starts_with("relay-") => Self::Mtlsd,
            _ => Self::Peer,
        }
    }
}

/// The kinds of workload, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Workload::Requests`].
    Requests,
    /// [`Workload::Paced`].
    Paced,
    /// [`Workload::Throughput`].
    Throughput,
    /// [`Workload::Download`].
    Download,
    /// [`Workload::NewConnections`].
    NewConnections,
    /// [`Workload::Wrk`].
    Wrk,
    /// [`Workload::Idle`].
    Idle,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Requests,
        Self::Paced,
        Self::Throughput,
        Self::Download,
        Self::NewConnections,
        Self::Wrk,
        Self::Idle,
    ];

    /// Of a workload.
    pub fn of(workload: Workload) -> Self {
        match workload {
            Workload::Requests { .. } => Self::Requests,
            Workload::Paced { .. } => Self::Paced,
            Workload::Throughput { .. } => Self::Throughput,
            Workload::Download { .. } => Self::Download,
            Workload::NewConnections { .. } => Self::NewConnections,
            Workload::Wrk { .. } => Self::Wrk,
            Workload::Idle { .. } => Self::Idle,
        }
    }
}

/// The names of all systems in the order of the report; those that have a row but no entry come last.
pub fn systems(run: &Run) -> Vec<&str> {
    let listed = run.systems.iter().map(|system| system.name.as_str());
    let curves = run.curves.iter().map(|curve| curve.system.as_str());
    let mut names: Vec<&str> = vec![];
    for name in listed.chain(run.rows.iter().map(|row| row.system.as_str())).chain(curves) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The names of the systems that have a role.
pub fn with_role(run: &Run, role: Role) -> Vec<&str> {
    systems(run).into_iter().filter(|name| Role::of(name) == role).collect()
}

/// The entry of a system.
pub fn system<'a>(run: &'a Run, name: &str) -> Option<&'a System> {
    run.systems.iter().find(|system| system.name == name)
}

/// What was asked of any system, each once, sorted.
pub fn workloads(run: &Run, kind: Kind) -> Vec<Workload> {
    let mut all: Vec<Workload> = run.rows.iter().map(|row| row.workload).collect();
    all.retain(|workload| Kind::of(*workload) == kind);
    all.sort();
    all.dedup();
    all
}

/// The row of a system under a workload, with figures to be trusted.
///
/// # Errors
///
/// Why there is none, for people.
pub fn row<'a>(run: &'a Run, name: &str, workload: Workload) -> Result<&'a Row, String> {
    let found = run.rows.iter().find(|row| row.system == name && row.workload == workload);
    match found {
        Some(Row { failure: Some(why), rounds, .. }) if rounds.is_empty() => {
            Err(format!("failed: {}", text::reason(why)))
        }
        Some(Row { failure: Some(why), .. }) => {
            Err(format!("measured, but not to be trusted: {}", text::reason(why)))
        }
        Some(row) if row.rounds.is_empty() => {
            Err("not measured: no round was kept, and no reason".to_owned())
        }
        Some(row) => Ok(row),
        None if system(run, name).is_some_and(|system| system.failure.is_some()) => {
            Err("not measured: the system failed, see Systems".to_owned())
        }
        None => Err("not measured".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datapath_of_mtlsd_is_ours() {
        let ours = ["relay-userspace", "relay-ktls", "auto", "direct"];
        assert!(ours.iter().all(|name| Role::of(name) == Role::Mtlsd));
        let peers = ["envoy", "stunnel", "haproxy", "ztunnel", "relay-userspace (base)", "something new"];
        assert!(peers.iter().all(|name| Role::of(name) == Role::Peer));
        assert_eq!(Role::of("plain"), Role::Plain);
    }
}
