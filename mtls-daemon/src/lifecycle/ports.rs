//! The ports of units that do not name theirs: what their processes listen on, by the kernel's own list.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use mtls_common::NEVER_LEARNED;

use crate::capture::cgroup;
use crate::config::{Mode, Workload};
use crate::sys::netns::Netns;
use crate::sys::sock_diag::{StateFlags, TcpSocket, each_tcp};
use crate::workload::{Presence, directories_below};

/// Whether the ports of this workload are looked for.
pub(super) fn are_learned(workload: &Workload) -> bool {
    let select = &workload.select;
    let shares = select.unit.is_some() || select.pod.as_ref().is_some_and(|pod| pod.host_network);
    shares && workload.listen_ports.is_empty() && workload.mode != Mode::Disabled
}

/// How a workload stands whose ports cannot be looked for.
pub(super) fn not_learned(error: &io::Error) -> Presence {
    Presence::Failed(format!("what it listens on cannot be learned: {error}; name its `listen_ports`"))
}

/// Whose sockets are whose: cgroups of units, by ID.
#[derive(Debug, Default)]
pub(super) struct Units(HashMap<u64, u32>);

impl Units {
    /// Adds the cgroup of a unit and those below it.
    pub(super) fn add(&mut self, directory: &Path, workload: u32) {
        let cgroups = directories_below(directory);
        self.0.extend(cgroups.iter().filter_map(|path| cgroup::id(path)).map(|id| (id, workload)));
    }

    /// What they listen on in a namespace: port → workload.
    ///
    /// # Errors
    /// As [`each_tcp`].
    pub(super) fn ports_in(&self, netns: &Netns) -> io::Result<BTreeMap<u16, u32>> {
        let mut found = BTreeMap::new();
        netns.run(|| each_tcp(StateFlags::LISTEN, None, |socket| self.note(socket, &mut found)))?;
        Ok(found)
    }

    fn note(&self, socket: &TcpSocket<'_>, found: &mut BTreeMap<u16, u32>) {
        let port = socket.local.port();
        // Nobody comes to loopback from outside.
        if NEVER_LEARNED.contains(&port) || socket.local.ip().is_loopback() {
            return;
        }
        if let Some(workload) = socket.cgroup.and_then(|cgroup| self.0.get(&cgroup)) {
            // Of two that listen on one port, at different addresses, always the same.
            let owner = found.entry(port).or_insert(*workload);
            *owner = (*owner).min(*workload);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Config, Source};

    fn workload(text: &str) -> Workload {
        let text = format!("trust_domain: a\nworkloads: [ {{ name: w, {text} }} ]\n");
        Config::parse(&Source { path: "F".into(), text }, &[]).unwrap().workloads.remove(0)
    }

    #[test]
    fn only_units_that_name_no_port_have_theirs_learned() {
        assert!(are_learned(&workload("select: { unit: a.service }")));
        assert!(are_learned(&workload("select: { unit: a.slice, netns: n }, mode: permissive")));
        for other in [
            "select: { unit: a.service }, listen_ports: [80]",
            "select: { unit: a.service }, mode: disabled",
            "select: { cgroup: /a }",
            "select: { netns: n }",
        ] {
            assert!(!are_learned(&workload(other)), "{other}");
        }
    }

    fn socket(local: &str, cgroup: Option<u64>) -> TcpSocket<'static> {
        let remote = "0.0.0.0:0".parse().unwrap();
        TcpSocket {
            local: local.parse().unwrap(),
            remote,
            state: 10,
            cookie: 1,
            inode: 1,
            cgroup,
            storage: None,
        }
    }

    #[test]
    fn a_port_belongs_to_the_unit_whose_process_listens_and_never_is_one_that_manages_the_node() {
        let units = Units(HashMap::from([(7, 70), (8, 80), (9, 70)]));
        let mut found = BTreeMap::new();
        for (local, cgroup) in [
            ("0.0.0.0:80", Some(7)),
            ("[::]:80", Some(9)),
            ("10.0.0.1:443", Some(8)),
            ("10.0.0.2:443", Some(7)),
            ("0.0.0.0:22", Some(7)),
            ("0.0.0.0:53", Some(7)),
            ("0.0.0.0:123", Some(7)),
            ("127.0.0.1:9000", Some(7)),
            ("[::1]:9000", Some(7)),
            ("0.0.0.0:8080", Some(1)),
            ("0.0.0.0:8081", None),
        ] {
            units.note(&socket(local, cgroup), &mut found);
        }
        assert_eq!(found, BTreeMap::from([(80, 70), (443, 70)]));
    }

    #[test]
    fn the_kernel_says_what_this_process_listens_on() {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let mount = cgroup::mount_point().unwrap();
        let mut units = Units::default();
        units.add(&cgroup::directory(&mount, Path::new(own)), 5);
        let (open, closed) =
            (TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let netns = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        let found = units.ports_in(&netns).unwrap();
        assert_eq!(found.get(&open.local_addr().unwrap().port()), Some(&5), "{found:?}");
        assert_eq!(found.get(&closed.local_addr().unwrap().port()), None);
        let port = open.local_addr().unwrap().port();
        drop(open);
        assert_eq!(units.ports_in(&netns).unwrap().get(&port), None);
    }
}
