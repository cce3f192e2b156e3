//! Namespaces and cgroups come and go: what exists is compared with what is wanted, and the difference made.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::daemon::{Daemon, lock};
use super::enclosures;
use super::inhabited::Inhabited;
use super::ports;
use super::probers;
use super::serve;
use super::tables::{Found, tables};
use crate::capture::namespace::cookie;
use crate::capture::{CaptureError, EnrolError, Injector, Listeners, Tables};
use crate::config::Prober;
use crate::datapath::relay::place::Owners;
use crate::datapath::relay::{Place, Relay};
use crate::snapshot::{Snapshot, number_of};
use crate::sys::netns::Netns;
use crate::workload::{Hierarchy, Presence, Witnesses, find_by, overlaps};

/// What the daemon has on this node.
#[derive(Default)]
pub struct Node {
    places: HashMap<u64, Arc<Place>>,
    /// Cookies of namespaces seen, by (device, inode): asking costs a change of namespace.
    cookies: HashMap<(u64, u64), u64>,
    presence: HashMap<String, Presence>,
    inhabited: Inhabited,
    witnesses: Witnesses,
    /// What the tables were made from: (generation, found).
    applied: Option<(u64, Found)>,
    /// Which probers did not run at the last look.
    absent_probers: BTreeSet<Prober>,
    swept: bool,
    /// It was said that the table takes no denials.
    denials_left_out: bool,
    /// What was last said about a namespace that cannot be enrolled, so that it is said once.
    complaints: HashMap<u64, String>,
}

impl Node {
    /// The place with this cookie.
    #[must_use]
    pub fn place(&self, netns: u64) -> Option<Arc<Place>> {
        self.places.get(&netns).map(Arc::clone)
    }

    /// Every place.
    pub fn places(&self) -> impl Iterator<Item = &Arc<Place>> {
        self.places.values()
    }

    /// What the tables were made from last: generation of the snapshot, and what was found.
    #[must_use]
    pub fn applied(&self) -> Option<&(u64, Found)> {
        self.applied.as_ref()
    }

    /// How each workload stood at the last look.
    #[must_use]
    pub fn presence(&self, workload: &str) -> Option<&Presence> {
        self.presence.get(workload)
    }

    /// The namespaces that the processes of a cgroup were in until a moment ago.
    fn left_a_moment_ago(&self, cgroup: u64, now: Instant) -> Vec<Netns> {
        let places = self.inhabited.recently(cgroup, now).iter().filter_map(|cookie| self.places.get(cookie));
        places.filter_map(|place| place.netns.try_clone().ok()).collect()
    }

    /// Tells every place whose it is by the tables that are in force.
    pub(super) fn tell_owners(&self) {
        let Some((_, found)) = &self.applied else { return };
        for (cookie, place) in &self.places {
            if let Some(owners) = found.owners.get(cookie) {
                place.give_to(owners);
            }
        }
    }

    /// Says once whether policy is still decided at connect().
    fn tell_of_denials(&mut self, tables: &Tables) {
        match (self.denials_left_out, tables.denials_left_out) {
            (false, true) => {
                tracing::warn!("too many denials for the table in the kernel; the daemons refuse instead")
            }
            (true, false) => tracing::info!("the kernel's table takes all denials again"),
            _ => {}
        }
        self.denials_left_out = tables.denials_left_out;
    }

    /// Closes every listener; what is attached stays.
    pub fn leave_all(&mut self) {
        for place in self.places.values() {
            place.left.send_replace(true);
        }
    }
}

/// A namespace that some workload is in.
struct Wanted {
    netns: Netns,
    owners: Owners,
}

impl Daemon {
    /// Looks at the node and brings everything in line.
    pub(super) fn reconcile(&self) {
        let mut node = lock(&self.node);
        let snapshot = self.relay.snapshot.load_full();
        if *self.stopping.borrow() {
            return;
        }
        let (wanted, found) = look(&snapshot, &mut node, self.is_direct());
        self.apply_tables(&snapshot, &mut node, found);
        let gone: Vec<u64> =
            node.places.keys().copied().filter(|cookie| !wanted.contains_key(cookie)).collect();
        for cookie in gone {
            self.leave(&mut node, cookie);
        }
        for place in node.places() {
            place.forget_old();
        }
        for (cookie, wanted) in wanted {
            match node.places.get(&cookie) {
                Some(place) => place.give_to(&wanted.owners),
                None => self.enrol(&snapshot, &mut node, cookie, wanted),
            }
        }
        if node.applied.is_some() {
            self.take_over();
        }
        if !node.swept {
            self.sweep(&mut node);
        }
        self.report_readiness(&snapshot, &node);
        drop(node);
        self.hold_for_direct();
        self.take_over_direct();
    }

    /// Brings the tables to a snapshot that is not in force yet, with what was found at the last look.
    pub(super) fn try_tables(&self, node: &mut Node, snapshot: &Snapshot) -> Result<(), CaptureError> {
        let (_, found) = look(snapshot, node, self.is_direct());
        let tables = tables(snapshot, &found);
        self.relay.capture.apply(&tables)?;
        node.tell_of_denials(&tables);
        node.applied = Some((snapshot.generation, found));
        Ok(())
    }

    /// Only now: an earlier mtlsd's programs may have tables of their own, and keep workloads closed until these are filled.
    fn take_over(&self) {
        match self.relay.capture.take_over() {
            Ok(()) => self.readiness.clear("programs"),
            Err(error) => {
                tracing::error!(%error, "the eBPF programs could not be attached; trying again");
                self.readiness.block("programs", error.to_string());
            }
        }
    }

    fn apply_tables(&self, snapshot: &Snapshot, node: &mut Node, found: Found) {
        let state = (snapshot.generation, found);
        if node.applied.as_ref() == Some(&state) {
            return;
        }
        let tables = tables(snapshot, &state.1);
        match self.relay.capture.apply(&tables) {
            Ok(()) => {
                node.tell_of_denials(&tables);
                self.readiness.clear("tables");
                node.applied = Some(state);
            }
            Err(error) => {
                tracing::error!(%error, "the eBPF tables could not be brought up to date; trying again");
                self.readiness.block("tables", error.to_string());
            }
        }
    }

    /// Brings the tables to what they shall be once more, though nothing has changed here.
    pub(super) fn apply_tables_again(&self) -> Result<(), CaptureError> {
        let node = lock(&self.node);
        let snapshot = self.relay.snapshot.load_full();
        match node.applied() {
            Some((generation, found)) if *generation == snapshot.generation => {
                self.relay.capture.apply_all(&tables(&snapshot, found))
            }
            _ => Ok(()),
        }
    }

    /// Opens new listeners in a namespace and turns its traffic to them; the namespace is enrolled all the while. The old
    /// ones take nothing new, and live connections go on.
    pub(super) fn enter_again(&self, old: &Arc<Place>) -> Result<(), EnrolError> {
        let mut node = lock(&self.node);
        if !node.places.get(&old.cookie).is_some_and(|place| Arc::ptr_eq(place, old)) {
            return Ok(());
        }
        let netns = old.netns.try_clone().map_err(|source| EnrolError::Socket {
            netns: old.netns.path().to_owned(),
            what: "open it again",
            source,
        })?;
        let owners = Owners::clone(&old.owners.load());
        let place = enter(&self.relay, old.cookie, Wanted { netns, owners })?;
        node.places.insert(old.cookie, place);
        old.left.send_replace(true);
        Ok(())
    }

    fn enrol(&self, snapshot: &Snapshot, node: &mut Node, cookie: u64, wanted: Wanted) {
        let names = owner_names(snapshot, &wanted.owners);
        let path = wanted.netns.path().to_owned();
        match enter(&self.relay, cookie, wanted) {
            Ok(place) => {
                tracing::info!(netns = %path.display(), workloads = names.join(", "), "enrolled");
                node.places.insert(cookie, place);
                node.complaints.remove(&cookie);
            }
            Err(error) => {
                let text = error.to_string();
                if node.complaints.get(&cookie) != Some(&text) {
                    tracing::error!(%error, workloads = names.join(", "), "cannot enrol; its strict workloads are closed");
                    node.complaints.insert(cookie, text.clone());
                }
                for name in names {
                    node.presence.insert(name, Presence::Failed(text.clone()));
                }
            }
        }
    }

    fn leave(&self, node: &mut Node, cookie: u64) {
        if let Some(place) = node.places.remove(&cookie) {
            tracing::info!(netns = %place.netns.path().display(), "left");
            place.left.send_replace(true);
            super::direct::let_go(&place);
            node.cookies.remove(&place.netns.identity());
        }
        if let Err(error) = self.relay.capture.release_namespace(cookie) {
            tracing::warn!(%error, "a namespace that is gone could not be forgotten");
        }
    }

    /// Once: forgets namespaces of an earlier daemon that nobody wants any more.
    fn sweep(&self, node: &mut Node) {
        let known: HashSet<u64> = node.cookies.values().copied().collect();
        for cookie in self.relay.capture.enrolled_namespaces() {
            if !known.contains(&cookie) {
                self.leave(node, cookie);
            }
        }
        node.swept = true;
    }

    fn report_readiness(&self, snapshot: &Snapshot, node: &Node) {
        for workload in snapshot.workloads.values() {
            let name = &workload.settings.name;
            let cause = format!("workload {name}");
            match (node.presence.get(name), &workload.identity) {
                (Some(Presence::Failed(why)), _) => {
                    self.readiness.block(cause, format!("workload {name}: {why}"))
                }
                // One that has expired since is an alarm: a daemon that is not ready helps no other workload.
                (Some(Presence::Enrolled), Err(refusal)) if self.store.get(name).is_none() => {
                    self.readiness.block(cause, refusal.to_string())
                }
                _ => self.readiness.clear(&cause),
            }
        }
    }
}

fn owner_names(snapshot: &Snapshot, owners: &Owners) -> Vec<String> {
    let numbers: HashSet<u32> = owners.whole.iter().chain(owners.ports.values()).copied().collect();
    numbers.iter().filter_map(|number| Some(snapshot.workloads.get(number)?.settings.name.clone())).collect()
}

/// Opens the daemon's sockets in a namespace and turns its traffic to them. When the sockets cannot be
/// opened, the programs still close its strict workloads.
fn enter(relay: &Arc<Relay>, cookie: u64, wanted: Wanted) -> Result<Arc<Place>, EnrolError> {
    let Wanted { netns, owners } = wanted;
    let whole = owners.whole.unwrap_or(0);
    let opened = Listeners::open(&netns).and_then(|listeners| Ok((listeners, Injector::open(&netns)?)));
    let (listeners, injector) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            relay.capture.enrol_namespace(&netns, cookie, whole, None)?;
            return Err(error);
        }
    };
    for listener in listeners.all() {
        relay.capture.mark_own(listener, None)?;
    }
    relay.capture.mark_injector(&injector)?;
    relay.capture.enrol_namespace(&netns, cookie, whole, Some(&listeners))?;
    let path = netns.path().to_owned();
    let place = Arc::new(Place::new(netns, cookie, owners, &listeners, injector));
    serve::accept(relay, &place, listeners).map_err(|source| EnrolError::Socket {
        netns: path,
        what: "poll a listener",
        source,
    })?;
    Ok(place)
}

/// Units and users whose ports are learned.
#[derive(Default)]
struct Learning {
    learners: ports::Learners,
    /// Which of them, by the cookie of the namespace that they are in.
    wanted: HashMap<u64, Vec<String>>,
}

impl Learning {
    /// Gives each its ports; one that is named for another workload stays that one's.
    fn finish(self, wanted: &mut HashMap<u64, Wanted>, presence: &mut HashMap<String, Presence>) {
        for (cookie, workloads) in self.wanted {
            let Some(place) = wanted.get_mut(&cookie) else { continue };
            match self.learners.ports_in(&place.netns, cookie) {
                Ok(learned) => {
                    for (port, number) in learned {
                        place.owners.ports.entry(port).or_insert(number);
                    }
                }
                Err(error) => {
                    let failed = ports::not_learned(&error);
                    presence.extend(workloads.into_iter().map(|name| (name, failed.clone())));
                }
            }
        }
    }
}

/// What exists of what the configuration names.
fn look(snapshot: &Snapshot, node: &mut Node, direct: bool) -> (HashMap<u64, Wanted>, Found) {
    let mut wanted: HashMap<u64, Wanted> = HashMap::new();
    let mut found = Found { direct, ..Found::default() };
    let hierarchy = Hierarchy::of(&snapshot.config);
    let mut presence = HashMap::new();
    enclosures::find(&snapshot.config, hierarchy.as_ref().map(Hierarchy::mount), &mut found);
    for bystander in &snapshot.config.bystanders {
        enclosures::know(bystander, hierarchy.as_ref(), &mut node.cookies, &mut found);
    }
    probers::find(&snapshot.config, hierarchy.as_ref(), &mut node.absent_probers, &mut found);
    let (mut present, now) = (Vec::new(), Instant::now());
    for workload in &snapshot.config.workloads {
        if workload.is_left_alone() {
            if enclosures::any(&snapshot.config) {
                enclosures::know(&workload.select, hierarchy.as_ref(), &mut node.cookies, &mut found);
            }
            continue;
        }
        match find_by(&workload.select, hierarchy.as_ref(), &mut node.witnesses, now) {
            Ok(here) => present.push((workload, here)),
            Err(absent) => {
                presence.insert(workload.name.clone(), absent);
            }
        }
    }
    node.witnesses.forget_others();
    let mut learning = Learning::default();
    let overlaps = overlaps(present.iter().map(|(workload, here)| (*workload, here)));
    for (workload, here) in present {
        let number = number_of(&workload.name);
        let mut state = here.presence();
        match overlaps.get(&workload.name) {
            // Its ports stay closed to plaintext; what its processes send is the outer workload's.
            Some(outer) => {
                state = Presence::Failed(format!(
                    "its cgroup lies inside that of workload {outer}; select cgroups that do not contain each other"
                ));
            }
            None => found.cgroups.extend(here.cgroup.map(|cgroup| (number, cgroup))),
        }
        let learns = ports::are_learned(workload);
        if let (true, Some(directory)) = (learns, &here.directory) {
            learning.learners.add_unit(directory, number);
        }
        let inhabited = !here.namespaces.is_empty();
        let mut namespaces = here.namespaces;
        if let (false, Some(cgroup)) = (inhabited, &here.cgroup) {
            namespaces = node.left_a_moment_ago(cgroup.id, now);
        }
        for netns in namespaces {
            let cookie = match node.cookies.get(&netns.identity()) {
                Some(cookie) => Ok(*cookie),
                None => cookie(&netns),
            };
            match cookie {
                Ok(cookie) => {
                    if here.cgroup.is_some() && workload.select.netns.is_some() {
                        found.restricted.insert(number, cookie);
                    }
                    node.cookies.insert(netns.identity(), cookie);
                    if let (true, Some(cgroup)) = (inhabited, &here.cgroup) {
                        node.inhabited.note(cgroup.id, cookie, now);
                    }
                    if let Some(uid) = workload.select.uid {
                        found.users.insert((cookie, uid), number);
                        learning.learners.add_user(cookie, uid, number);
                    }
                    if learns {
                        learning.wanted.entry(cookie).or_default().push(workload.name.clone());
                    }
                    let place =
                        wanted.entry(cookie).or_insert_with(|| Wanted { netns, owners: Owners::default() });
                    if here.whole {
                        place.owners.whole = Some(number);
                    }
                    let ports = workload.listen_ports.iter().map(|port| (*port, number));
                    place.owners.ports.extend(ports);
                }
                Err(error) => state = Presence::Failed(error.to_string()),
            }
        }
        presence.insert(workload.name.clone(), state);
    }
    node.inhabited.forget(now);
    learning.finish(&mut wanted, &mut presence);
    found.owners = wanted.iter().map(|(cookie, wanted)| (*cookie, wanted.owners.clone())).collect();
    node.presence = presence;
    (wanted, found)
}
