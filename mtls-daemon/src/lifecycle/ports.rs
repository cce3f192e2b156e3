//! The ports of units and users that do not name theirs: what their processes listen on, by the kernel's own list.

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
    let shares = select.unit.is_some()
        || select.uid.is_some()
        || select.pod.as_ref().is_some_and(|pod| pod.host_network);
    shares && workload.listen_ports.is_empty() && workload.mode != Mode::Disabled
}

/// How a workload stands whose ports cannot be looked for.
pub(super) fn not_learned(error: &io::Error) -> Presence {
    Presence::Failed(format!("what it listens on cannot be learned: {error}; name its `listen_ports`"))
}

/// Whose sockets are whose.
#[derive(Debug, Default)]
pub(super) struct Learners {
    /// cgroups of units, by ID.
    cgroups: HashMap<u64, u32>,
    /// Users, by the cookie of their namespace.
    users: HashMap<(u64, u32), u32>,
}

impl Learners {
    /// Adds a user's processes in one namespace.
    pub(super) fn add_user(&mut self, netns: u64, uid: u32, workload: u32) {
        self.users.insert((netns, uid), workload);
    }

    /// Adds the cgroup of a unit and those below it.
    pub(super) fn add_unit(&mut self, directory: &Path, workload: u32) {
        let cgroups = directories_below(directory);
        self.cgroups.extend(cgroups.iter().filter_map(|path| cgroup::id(path)).map(|id| (id, workload)));
    }

    /// What they listen on in a namespace: port → workload.
    ///
    /// # Errors
    /// As [`each_tcp`].
    pub(super) fn ports_in(&self, netns: &Netns, cookie: u64) -> io::Result<BTreeMap<u16, u32>> {
        let mut found = BTreeMap::new();
        netns.run(|| each_tcp(StateFlags::LISTEN, None, |socket| self.note(cookie, socket, &mut found)))?;
        Ok(found)
    }

    fn note(&self, netns: u64, socket: &TcpSocket<'_>, found: &mut BTreeMap<u16, u32>) {
        let port = socket.local.port();
        // Nobody comes to loopback from outside.
        if NEVER_LEARNED.contains(&port) || socket.local.ip().is_loopback() {
            return;
        }
        // As in the programs, the cgroup goes before the user.
        let by_cgroup = socket.cgroup.and_then(|cgroup| self.cgroups.get(&cgroup));
        if let Some(workload) = by_cgroup.or_else(|| self.users.get(&(netns, socket.uid))) {
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
    fn only_units_and_users_that_name_no_port_have_theirs_learned() {
        assert!(are_learned(&workload("select: { uid: 7 }")));
        assert!(!are_learned(&workload("select: { uid: 7 }, listen_ports: [80]")));
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
            uid: 0,
            cgroup,
            storage: None,
        }
    }

    #[test]
    fn a_port_belongs_to_the_unit_whose_process_listens_and_never_is_one_that_manages_the_node() {
        let cgroups = HashMap::from([(7, 70), (8, 80), (9, 70)]);
        let units = Learners { cgroups, users: HashMap::new() };
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
            units.note(1, &socket(local, cgroup), &mut found);
        }
        assert_eq!(found, BTreeMap::from([(80, 70), (443, 70)]));
    }

    #[test]
    fn a_port_belongs_to_the_user_whose_process_listens_in_that_namespace_unless_its_cgroup_is_a_units() {
        let cgroups = HashMap::from([(7, 70)]);
        let learners = Learners { cgroups, users: HashMap::from([((1, 1000), 10), ((2, 1001), 20)]) };
        let ports = |netns| {
            let mut found = BTreeMap::new();
            for (port, uid, cgroup) in
                [(80, 1000, Some(7)), (81, 1000, Some(8)), (82, 1000, None), (83, 1001, None)]
            {
                let socket = TcpSocket { uid, ..socket(&format!("0.0.0.0:{port}"), cgroup) };
                learners.note(netns, &socket, &mut found);
            }
            found
        };
        assert_eq!(ports(1), BTreeMap::from([(80, 70), (81, 10), (82, 10)]));
        assert_eq!(ports(2), BTreeMap::from([(80, 70), (83, 20)]));
        assert_eq!(ports(3), BTreeMap::from([(80, 70)]));
    }

    #[test]
    fn the_kernel_says_what_this_process_listens_on() {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let mount = cgroup::mount_point().unwrap();
        let (mut units, mut users) = (Learners::default(), Learners::default());
        units.add_unit(&cgroup::directory(&mount, Path::new(own)), 5);
        users.add_user(1, nix::unistd::geteuid().as_raw(), 6);
        let (open, closed) =
            (TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let netns = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        let by_user = users.ports_in(&netns, 1).unwrap();
        assert_eq!(by_user.get(&open.local_addr().unwrap().port()), Some(&6), "{by_user:?}");
        let found = units.ports_in(&netns, 1).unwrap();
        assert_eq!(found.get(&open.local_addr().unwrap().port()), Some(&5), "{found:?}");
        assert_eq!(found.get(&closed.local_addr().unwrap().port()), None);
        let port = open.local_addr().unwrap().port();
        drop(open);
        assert_eq!(units.ports_in(&netns, 1).unwrap().get(&port), None);
    }
}
