//! From the raw document to the validated [`Config`]: every problem is found, not only the first.

mod direct;
mod directory;
mod elsewhere;
mod external;
mod issuer;
mod istio;
mod kubernetes;
mod local;
mod modes;
mod node;
mod offered;
mod pkcs11;
mod policy;
mod probers;
mod vault;
mod workload;

pub use directory::MAX_PAIRS;
pub use node::MAX_ENCLOSED;
pub use policy::MAX_COMBINATIONS;
pub use probers::MAX_PROBERS;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::identity::alarm::Threshold;
use crate::identity::{SpiffeId, TrustDomain};

use super::DropIn;
use super::at::{At, Given, Number, Spot};
use super::error::{ConfigError, Fault, Place, Problem, Quoted};
use super::inside::Inside;
use super::kubernetes::Offer;
use super::raw::Document;
use super::scalar;
use super::types::{Config, Exclusions, Selector};

/// A hostile document must not make a list of problems that is larger than itself.
const MAX_KEPT: usize = 10_000;

/// Most faults that are told of one object.
const MAX_TOLD: usize = 5;

/// Where something stands: the index of its file, and the place in it.
pub(crate) type FileSpot = (usize, Spot);

/// Collects what is wrong while the documents are gone through.
pub(super) struct Check {
    /// Every file that a place may name.
    files: Vec<PathBuf>,
    /// Those that were read.
    read: Vec<PathBuf>,
    /// Index of the file at hand.
    file: usize,
    problems: Vec<(FileSpot, Fault)>,
    not_kept: usize,
    warnings: Vec<(FileSpot, Fault)>,
}

/// The place that means a whole file.
pub(super) const WHOLE_FILE: Spot = Spot { line: 0, column: 0 };

impl Check {
    pub fn new() -> Self {
        Self {
            files: Vec::new(),
            read: Vec::new(),
            file: 0,
            problems: Vec::new(),
            not_kept: 0,
            warnings: Vec::new(),
        }
    }

    /// Goes on with another file, which is read.
    pub fn enter(&mut self, path: &Path) -> usize {
        self.read.push(path.to_owned());
        self.name_file(path)
    }

    fn name_file(&mut self, path: &Path) -> usize {
        self.file = self.files.len();
        self.files.push(path.to_owned());
        self.file
    }

    /// Does something on its own, about what is no file: what is wrong with it is given back, and is no fault of the configuration.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn attempt<T>(&mut self, what: &str, run: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, String> {
        let (back, warnings) = (self.file, self.warnings.len());
        let (problems, not_kept) = (std::mem::take(&mut self.problems), std::mem::take(&mut self.not_kept));
        self.name_file(Path::new(what));
        let outcome = run(self);
        let found = std::mem::replace(&mut self.problems, problems);
        self.not_kept = not_kept;
        self.warnings.truncate(warnings);
        self.file = back;
        match outcome {
            Some(good) if found.is_empty() => Ok(good),
            _ => {
                let faults: Vec<_> =
                    found.iter().take(MAX_TOLD).map(|(_, fault)| fault.to_string()).collect();
                Err(faults.join("; "))
            }
        }
    }

    pub fn fault(&mut self, spot: Spot, fault: Fault) {
        self.fault_at((self.file, spot), fault);
    }

    fn fault_at(&mut self, spot: FileSpot, fault: Fault) {
        match self.problems.len() < MAX_KEPT {
            true => self.problems.push((spot, fault)),
            false => self.not_kept += 1,
        }
    }

    pub fn warn(&mut self, spot: Spot, fault: Fault) {
        if self.warnings.len() < ConfigError::MAX_PROBLEMS {
            self.warnings.push(((self.file, spot), fault));
        }
    }

    /// A warning about a file that is not read.
    pub fn warn_about(&mut self, path: &Path, fault: Fault) {
        let back = self.file;
        self.name_file(path);
        self.warn(WHOLE_FILE, fault);
        self.file = back;
    }

    pub fn place(&self, (file, spot): FileSpot) -> Place {
        let file = self.files.get(file).cloned().unwrap_or_default();
        Place { file, line: spot.line, column: spot.column }
    }

    fn render(&self, mut list: Vec<(FileSpot, Fault)>) -> Vec<Problem> {
        // Stable: problems of one place stay in the order in which they were found.
        list.sort_by_key(|(spot, _)| *spot);
        list.into_iter().map(|(spot, fault)| Problem { place: self.place(spot), fault }).collect()
    }

    /// Everything that was found wrong.
    pub fn into_error(mut self) -> ConfigError {
        let found = std::mem::take(&mut self.problems);
        let mut problems = self.render(found);
        let more = problems.len().saturating_sub(ConfigError::MAX_PROBLEMS) + self.not_kept;
        problems.truncate(ConfigError::MAX_PROBLEMS);
        ConfigError { problems, more }
    }

    /// The error, if anything was found wrong.
    pub fn refuse_faults(self) -> Result<Self, ConfigError> {
        if self.problems.is_empty() { Ok(self) } else { Err(self.into_error()) }
    }

    /// Parses a text, or notes why it cannot be.
    pub fn text<T, E>(
        &mut self,
        at: &At<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
        fault: impl FnOnce(Quoted, E) -> Fault,
    ) -> Option<T> {
        parse(&at.value).map_err(|error| self.fault(at.spot, fault(Quoted::new(&at.value), error))).ok()
    }

    pub fn name(&mut self, at: &At<String>) -> Option<String> {
        self.text(at, scalar::name, Fault::Name)
    }

    pub fn path(&mut self, at: &At<String>) -> Option<PathBuf> {
        self.text(at, scalar::absolute_path, Fault::Path)
    }

    /// `Some(None)`: it was not given; `None`: it was refused.
    pub fn optional_path(&mut self, at: Option<&At<String>>) -> Option<Option<PathBuf>> {
        unless_refused(at.map(|at| self.path(at)))
    }

    pub fn path_or(&mut self, given: &Given<String>, default: &str) -> PathBuf {
        given.0.as_ref().and_then(|at| self.path(at)).unwrap_or_else(|| PathBuf::from(default))
    }

    pub fn spiffe_id(&mut self, at: &At<String>) -> Option<SpiffeId> {
        self.text(at, str::parse, Fault::SpiffeId)
    }

    pub fn trust_domain(&mut self, at: &At<String>) -> Option<TrustDomain> {
        self.text(at, str::parse, Fault::TrustDomain)
    }

    pub fn duration(&mut self, given: &Given<String>, min: Duration, max: Duration) -> Option<Duration> {
        self.text(given.0.as_ref()?, |text| scalar::duration(text, min, max), Fault::Duration)
    }

    pub fn threshold(&mut self, given: &Given<String>, default: Threshold) -> Threshold {
        let Some(at) = &given.0 else { return default };
        self.text(at, scalar::threshold, Fault::Threshold).unwrap_or(default)
    }

    pub fn port(&mut self, at: &At<Number>) -> Option<u16> {
        match u16::try_from(at.value.0) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                self.fault(at.spot, Fault::Port(at.value.0));
                None
            }
        }
    }

    pub fn ports(&mut self, list: &[At<Number>]) -> BTreeSet<u16> {
        let mut seen = Seen::new("port", "write it once");
        let mut ports = BTreeSet::new();
        for at in list {
            if let Some(port) = self.port(at) {
                seen.note(self, &port, &port.to_string(), at.spot);
                ports.insert(port);
            }
        }
        ports
    }

    pub fn number(&mut self, given: &Given<Number>, max: u32, default: u32) -> u32 {
        self.number_within(given, 1, max, default)
    }

    pub fn number_within(&mut self, given: &Given<Number>, min: u32, max: u32, default: u32) -> u32 {
        let Some(at) = &given.0 else { return default };
        match u32::try_from(at.value.0) {
            Ok(number) if (min..=max).contains(&number) => number,
            _ => {
                self.fault(at.spot, Fault::Range { value: at.value.0, min, max });
                default
            }
        }
    }

    pub fn exclusions(&mut self, raw: &super::raw::Exclude) -> Exclusions {
        let ports = self.ports(&raw.ports);
        let mut seen = Seen::new("network", "write it once");
        let mut cidrs = Vec::new();
        for at in &raw.cidrs {
            if let Some(network) = self.text(at, scalar::cidr, Fault::Cidr) {
                seen.note(self, &network, &at.value, at.spot);
                cidrs.push(network);
            }
        }
        Exclusions { ports, cidrs }
    }

    /// A list of distinct values.
    pub fn distinct<T: Eq + Hash + Clone, E>(
        &mut self,
        what: &'static str,
        list: &[At<String>],
        parse: impl Fn(&str) -> Result<T, E>,
        fault: impl Fn(Quoted, E) -> Fault,
    ) -> Vec<T> {
        let mut seen = Seen::new(what, "write it once");
        let mut values = Vec::new();
        for at in list {
            if let Some(value) = self.text(at, &parse, &fault) {
                seen.note(self, &value, &at.value, at.spot);
                values.push(value);
            }
        }
        values
    }
}

/// Of what was given, `None` if that was refused, so that the load fails; `Some(None)` if nothing was given.
pub(super) fn unless_refused<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    given.map_or(Some(None), |checked| checked.map(Some))
}

/// What has been seen of one kind, to point from the second to the first.
pub(super) struct Seen<T> {
    what: &'static str,
    mend: &'static str,
    first: HashMap<T, FileSpot>,
}

impl<T: Eq + Hash + Clone> Seen<T> {
    pub fn new(what: &'static str, mend: &'static str) -> Self {
        Self { what, mend, first: HashMap::new() }
    }

    /// Notes a value; the second of its kind is a fault.
    pub fn note(&mut self, check: &mut Check, value: &T, text: &str, spot: Spot) {
        match self.first.get(value) {
            None => {
                self.first.insert(value.clone(), (check.file, spot));
            }
            Some(first) => {
                let first = check.place(*first);
                let (what, mend) = (self.what, self.mend);
                check.fault(spot, Fault::Duplicate { what, text: Quoted::new(text), first, mend });
            }
        }
    }
}

/// One part of the configuration with the index of the file that it stands in.
pub(super) type InFile<T> = Vec<(usize, At<T>)>;

/// Checks everything. `drop_ins` come with the index that [`Check::enter`] gave to their files.
pub(super) fn check(
    mut check: Check,
    mut main: Document,
    drop_ins: Vec<(usize, DropIn)>,
    drop_in_directories: Vec<PathBuf>,
    offer: &Offer,
) -> Result<Config, ConfigError> {
    let files = check.read.clone();
    let mut workloads = tag(0, std::mem::take(&mut main.workloads));
    let mut directory = tag(0, std::mem::take(&mut main.directory));
    let mut modes = tag(0, std::mem::take(&mut main.modes));
    let mut policy = tag(0, std::mem::take(&mut main.policy));
    let mut outbound = tag(0, std::mem::take(&mut main.outbound_policy));
    let mut resources = Vec::new();
    for (file, drop_in) in drop_ins {
        let drop_in = match drop_in {
            DropIn::Ours(drop_in) => drop_in,
            DropIn::Istio(list) => {
                resources.extend(tag(file, list));
                continue;
            }
        };
        workloads.extend(tag(file, drop_in.workloads));
        directory.extend(tag(file, drop_in.directory));
        modes.extend(tag(file, drop_in.modes));
        policy.extend(tag(file, drop_in.policy));
        outbound.extend(tag(file, drop_in.outbound_policy));
    }

    check.file = 0;
    let external = std::mem::take(&mut main.policy_external);
    let node = node::check(&mut check, main);
    let mut total = policy::Total::of(&policy, &outbound);
    let (mut resources, of_resources) = istio::Resources::check(&mut check, resources, &mut total);
    let mut modes = modes::Modes::check(&mut check, modes, of_resources);
    let mut workloads = workload::check(&mut check, &node, &modes, workloads);
    let listen = node.direct.listen.zip(node.direct_listen);
    direct::not_of_a_workload(&mut check, listen, &workloads.list);
    let mut directory = directory::check(&mut check, &node, &workloads, directory);
    // Only now: nothing of the files is judged by what a pod claims to be.
    let offered =
        offered::Policies::read(&mut check, &node, (&mut resources, &mut modes), &offer.policies, total);
    offered::pods(&mut check, &node, (&modes, &offered), &mut workloads, &offer.pods);
    let services = elsewhere::services(&directory, &workloads.list, &offer.services);
    let elsewhere = elsewhere::Elsewhere::new(&node, &modes, &offered);
    let left_alone = elsewhere::destinations(
        &mut check,
        &elsewhere,
        &mut directory,
        &mut workloads.list,
        &offer.directory,
    );
    let networks = node.kubernetes.as_ref().map_or(&[][..], |kubernetes| &kubernetes.networks);
    let inside = Inside::new(networks, offer.known.union(&left_alone));
    let mut policy = policy::check(&mut check, &workloads.list, policy, outbound);
    policy.inbound.extend(resources.rules(&mut check, &workloads.list, node.trust_domain.as_ref()));
    policy.inbound.extend(offered.rules(&mut check, &workloads.list));
    resources.set_defaults(&mut workloads.list, &workloads.says_default, &policy.inbound);
    offered.set_defaults(&mut workloads.list);
    let bystanders = offer.bystanders.iter().cloned().map(Selector::of_pod).collect();
    check.file = 0;
    let policy_external = external::check(&mut check, &external, &workloads.list, node.timeouts.handshake);
    let (Some(trust_domain), Some(policy_external)) = (node.trust_domain, policy_external) else {
        return Err(check.into_error());
    };
    let mut check = check.refuse_faults()?;
    let warnings = std::mem::take(&mut check.warnings);
    Ok(Config {
        trust_domain,
        paths: node.paths,
        cgroup_root: node.cgroup_root,
        embedded_ca: node.embedded_ca,
        issuers: node.issuers,
        alarms: node.alarms,
        pkcs11: node.pkcs11,
        trust: node.trust,
        exclude: node.exclude,
        unclassified: node.unclassified,
        probers: node.probers,
        tls: node.tls,
        datapath: node.datapath,
        direct: node.direct,
        limits: node.limits,
        timeouts: node.timeouts,
        access_log: node.access_log,
        metrics: node.metrics,
        log: node.log,
        recorder: node.recorder,
        flows: node.flows,
        kubernetes: node.kubernetes,
        workloads: workloads.list,
        bystanders,
        services,
        inside,
        verdicts: offered.into_verdicts(),
        directory,
        policy: policy.inbound,
        outbound_policy: policy.outbound,
        policy_external,
        files,
        drop_in_directories,
        warnings: check.render(warnings),
    })
}

fn tag<T>(file: usize, list: Vec<At<T>>) -> InFile<T> {
    list.into_iter().map(|at| (file, at)).collect()
}
