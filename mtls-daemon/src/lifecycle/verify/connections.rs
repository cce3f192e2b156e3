//! Every TCP connection in the namespaces of enrolled workloads, socket by socket from the kernel, and what accounts for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::account::{Account, Ground, Lack, Makers, Mark, Seen, account};
use super::processes::holders;
use super::{Finding, places};
use crate::capture::cgroup;
use crate::datapath::relay::Place;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::snapshot::{Snapshot, number_of};
use crate::sys::sock_diag::{CONNECTED, StateFlags, each_tcp, state_name};
use crate::workload::{Hierarchy, directories_below};

/// So many unaccounted connections are listed one by one; all are counted.
const LISTED: usize = 100;

/// A connection that nothing accounts for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unaccounted {
    workload: u32,
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u32,
    lack: Lack,
}

/// What was found on the node.
#[derive(Debug, Default)]
struct Tally {
    sockets: usize,
    /// By workload and word.
    counts: BTreeMap<(u32, &'static str), u64>,
    unaccounted: HashMap<u32, u64>,
    listed: Vec<Unaccounted>,
    /// Namespaces that could not be looked into.
    failed: Vec<(String, io::Error)>,
}

impl Tally {
    fn add(&mut self, workload: u32, account: Account, of: impl FnOnce(Lack) -> Unaccounted) {
        *self.counts.entry((workload, account.word())).or_default() += 1;
        if let Account::Not(lack) = account {
            *self.unaccounted.entry(workload).or_default() += 1;
            if self.listed.len() < LISTED {
                self.listed.push(of(lack));
            }
        }
    }

    fn total(&self) -> u64 {
        self.unaccounted.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, word), count) in &self.counts {
            *sums.entry(word).or_default() += count;
        }
        write!(f, "{} sockets", self.sockets)?;
        for (n, (word, count)) in sums.iter().enumerate() {
            write!(f, "{} {count} {word}", if n == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// Looks at every connection. `thorough`: also at who holds those that nothing accounts for.
pub(super) fn look(daemon: &Daemon, thorough: bool) -> Vec<Finding> {
    let snapshot = daemon.relay.snapshot.load_full();
    let makers = Makers {
        cgroups: cgroups(&snapshot),
        users: lock(&daemon.node).applied().map(|(_, found)| found.users.clone()).unwrap_or_default(),
    };
    let mut tally = Tally::default();
    for place in places(daemon) {
        if let Err(error) = walk(daemon, &snapshot, &place, &makers, &mut tally) {
            tally.failed.push((place.netns.path().display().to_string(), error));
        }
    }
    for workload in snapshot.workloads.values() {
        // What could not be looked at is not 0.
        if tally.failed.is_empty() {
            let count = tally.unaccounted.get(&workload.number).copied().unwrap_or(0);
            workload.metrics.set_unaccounted(count);
        }
    }
    let inodes = tally.listed.iter().map(|connection| connection.inode).filter(|inode| *inode != 0);
    let inodes: HashSet<u32> = if thorough { inodes.collect() } else { HashSet::new() };
    let holders = if inodes.is_empty() { HashMap::new() } else { holders(&inodes) };
    findings(&snapshot, &tally, &holders)
}

fn walk(
    daemon: &Daemon,
    snapshot: &Snapshot,
    place: &Place,
    makers: &Makers,
    tally: &mut Tally,
) -> io::Result<()> {
    let owners = place.owners.load_full();
    let marks = daemon.relay.capture.sockets();
    place.netns.run(|| {
        let mut listening = HashSet::new();
        each_tcp(StateFlags::LISTEN, None, |socket| {
            listening.insert(socket.local.port());
        })?;
        let ground =
            Ground { snapshot, owners: &owners, listening: &listening, cookie: place.cookie, makers };
        each_tcp(CONNECTED, marks, |socket| {
            tally.sockets += 1;
            let seen = Seen {
                local: socket.local,
                remote: socket.remote,
                cgroup: socket.cgroup,
                uid: socket.uid,
                mark: socket.storage.and_then(Mark::parse),
            };
            if let Some((workload, account)) = account(&ground, &seen) {
                tally.add(workload, account, |lack| Unaccounted {
                    workload,
                    local: socket.local,
                    remote: socket.remote,
                    state: socket.state,
                    inode: socket.inode,
                    lack,
                });
            }
        })
    })
}

/// The workload of every cgroup at or below one that a workload is selected by.
fn cgroups(snapshot: &Snapshot) -> HashMap<u64, u32> {
    let Some(hierarchy) = Hierarchy::of(&snapshot.config) else { return HashMap::new() };
    let selected = snapshot.config.workloads.iter().filter_map(|workload| {
        let directory = hierarchy.directory(&workload.select).ok()??;
        Some((directory, number_of(&workload.name)))
    });
    let mut selected: Vec<_> = selected.collect();
    // The deepest one decides, as in the programs.
    selected.sort_by_key(|(directory, _)| directory.components().count());
    let mut found = HashMap::new();
    for (directory, number) in selected {
        let ids = directories_below(&directory).into_iter().filter_map(|path| cgroup::id(&path));
        found.extend(ids.map(|id| (id, number)));
    }
    found
}

fn findings(snapshot: &Snapshot, tally: &Tally, holders: &HashMap<u32, String>) -> Vec<Finding> {
    let name = |number: &u32| snapshot.workloads.get(number).map(|workload| workload.settings.name.clone());
    let mut findings: Vec<_> = tally.failed.iter().map(|(path, error)| failed(path, error)).collect();
    findings.extend(tally.listed.iter().map(|connection| {
        let Unaccounted { local, remote, state, inode, lack, .. } = connection;
        let holder = holders.get(inode).map(|holder| format!(", held by {holder}")).unwrap_or_default();
        Finding::bad(
            name(&connection.workload),
            format!("{local} to {remote} ({}){holder}: {lack}", state_name(*state)),
            lack.mend(),
        )
    }));
    let more = tally.total().saturating_sub(tally.listed.len() as u64);
    if more > 0 {
        findings.push(Finding::bad(
            None,
            format!("and {more} more connections that nothing accounts for"),
            "See the metric mtlsd_unaccounted_connections.",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good(None, tally.to_string()));
    }
    findings
}

fn failed(path: &str, error: &io::Error) -> Finding {
    let mend = match error.raw_os_error() {
        Some(nix::libc::ENOENT) => "Load the kernel's module: `modprobe tcp_diag`.",
        Some(nix::libc::EPERM) => "Run mtlsd as root, or give it CAP_NET_ADMIN and CAP_BPF.",
        _ => "Try again; if it stays, report it with the kernel's version.",
    };
    Finding::bad(None, format!("{path}: its connections cannot be listed: {error}"), mend)
}

#[cfg(test)]
mod tests {
    use super::super::account::Why;
    use super::*;
    use crate::snapshot::testing::{config, snapshot};

    fn world() -> Snapshot {
        snapshot(config("workloads: [{ name: web, select: { netns: web } }]"))
    }

    fn unaccounted(n: u16) -> Unaccounted {
        Unaccounted {
            workload: number_of("web"),
            local: SocketAddr::from(([10, 0, 0, 2], n)),
            remote: "10.0.0.3:5432".parse().unwrap(),
            state: 1,
            inode: n.into(),
            lack: Lack::NeverSeen,
        }
    }

    #[test]
    fn when_all_are_accounted_for_it_says_by_what() {
        let mut tally = Tally { sockets: 4, ..Tally::default() };
        for account in [Account::Carried, Account::Carried, Account::LeftAlone(Why::Excluded)] {
            tally.add(1, account, |_| panic!("accounted for"));
        }
        tally.add(0, Account::Daemon, |_| panic!("accounted for"));
        let found = findings(&world(), &tally, &HashMap::new());
        assert_eq!(found.len(), 1);
        assert!(found[0].ok);
        assert_eq!(found[0].detail, "4 sockets: 2 carried, 1 excluded, 1 mtlsd's own");
    }

    #[test]
    fn each_unaccounted_one_is_listed_with_its_workload_state_and_holder() {
        let mut tally = Tally::default();
        tally.add(number_of("web"), Account::Not(Lack::NeverSeen), |_| unaccounted(40));
        let found = findings(&world(), &tally, &HashMap::from([(40, "pid 7 (curl)".to_owned())]));
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.ok, one.workload.as_deref()), (false, Some("web")));
        let start = "10.0.0.2:40 to 10.0.0.3:5432 (ESTABLISHED), held by pid 7 (curl): no program saw it";
        assert!(one.detail.starts_with(start), "{}", one.detail);
        assert!(one.mend.contains("Restart the program"));
    }

    #[test]
    fn more_than_can_be_listed_are_counted() {
        let mut tally = Tally::default();
        for n in 0..130 {
            tally.add(number_of("web"), Account::Not(Lack::Blocked), |_| unaccounted(n));
        }
        let found = findings(&world(), &tally, &HashMap::new());
        assert_eq!((found.len(), tally.total()), (LISTED + 1, 130));
        assert!(found[LISTED].detail.contains("30 more"), "{}", found[LISTED].detail);
    }

    #[test]
    fn a_namespace_that_cannot_be_looked_into_is_no_success_and_says_what_to_do() {
        for (errno, mend) in [(nix::libc::ENOENT, "modprobe tcp_diag"), (nix::libc::EPERM, "CAP_NET_ADMIN")] {
            let failed = vec![("/run/netns/a".to_owned(), io::Error::from_raw_os_error(errno))];
            let found = findings(&world(), &Tally { failed, ..Tally::default() }, &HashMap::new());
            assert_eq!(found.len(), 1);
            assert!(!found[0].ok && found[0].mend.contains(mend), "{found:?}");
        }
    }
}
