//! Units that are enrolled by command. Each is a drop-in that the daemon writes, so that files say all that is in force; and one that
//! could shut out whoever made it is put back unless it is confirmed.

mod unconfirmed;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::TryLockError;
use std::time::{Instant, SystemTime};

use mtls_common::NEVER_LEARNED;

use super::daemon::{Daemon, lock};
use super::ports::{self, Learners};
use super::view::{presence, selector};
use crate::config::{Change, Config, UnitName, Workload};
use crate::control::enroll::{Changed, EnrolError, EnrolReport, EnrolRequest, Enrolled};
use crate::replace::replace_file;
use crate::workload::{Hierarchy, Presence, find};
pub(super) use unconfirmed::{Unconfirmed, put_back_overdue};

/// What the names of our drop-ins begin with.
const PREFIX: &str = "enrolled-";
const SUFFIX: &str = ".yaml";

/// A change that waits to be confirmed, and until when by a clock that nobody sets.
#[derive(Debug)]
pub(super) struct Waiting {
    change: Unconfirmed,
    until: Instant,
}

impl Waiting {
    /// What an earlier daemon has left.
    pub(super) fn left_behind(state: &Path) -> Option<Self> {
        let change = Unconfirmed::read(state).unwrap_or_else(|error| {
            tracing::error!(%error, "a change that was not confirmed cannot be put back");
            None
        })?;
        let until = Instant::now() + change.left(SystemTime::now());
        Some(Self { change, until })
    }

    fn left(&self) -> u64 {
        self.until.saturating_duration_since(Instant::now()).as_secs()
    }
}

impl Daemon {
    /// Enrols a unit, or says what would become of it.
    ///
    /// # Errors
    /// Nothing was changed.
    pub(super) fn enroll_unit(&self, request: &EnrolRequest, by: &str) -> Result<EnrolReport, EnrolError> {
        let mut waiting = lock(&self.enrolling);
        if let (Some(waiting), false) = (&*waiting, request.dry_run) {
            return Err(EnrolError::Unconfirmed { name: waiting.change.name.clone(), left: waiting.left() });
        }
        let unit = request.unit.parse::<UnitName>();
        let unit = unit.map_err(|error| EnrolError::Unit(request.unit.clone(), error))?;
        let name = request.name.clone().unwrap_or_else(|| name_of(&unit));
        let config = self.relay.snapshot.load().config.clone();
        let text = drop_in(request, &unit, &name);
        let file = file_of(&config, &name)?;
        let change = Change { path: file.clone(), text: Some(text.clone()) };
        let candidate = self.candidate(&change)?;
        let workload =
            candidate.workload(&name).ok_or_else(|| EnrolError::Refused(format!("it names no {name}")))?;
        let (stands, ports) = seen(&candidate, workload);
        let (state, detail) = presence(workload, Some(&stands));
        let report = EnrolReport {
            name: name.clone(),
            spiffe_id: workload.spiffe_id.to_string(),
            mode: request.mode,
            file: file.clone(),
            text: text.clone(),
            state,
            detail,
            ports: ports.into_iter().collect(),
            warnings: candidate.warnings.iter().map(ToString::to_string).collect(),
            undone_in: request.confirm_within,
            dry_run: request.dry_run,
        };
        if request.dry_run {
            return Ok(report);
        }
        let before = read_if_there(&file)?;
        let noted =
            request.confirm_within.map(|within| Unconfirmed::new(&name, &file, before.clone(), within));
        if let Some(change) = &noted {
            change.note(&config.paths.state)?;
        }
        self.put(&file, Some(&text), before.as_deref()).inspect_err(|_| {
            if noted.is_some() {
                Unconfirmed::forget(&config.paths.state);
            }
        })?;
        tracing::info!(by, %unit, workload = name, mode = %request.mode, undone_in = request.confirm_within, "enrolled by command");
        *waiting =
            noted.map(|change| Waiting { until: Instant::now() + change.left(SystemTime::now()), change });
        Ok(report)
    }

    /// Takes back what was enrolled.
    ///
    /// # Errors
    /// Nothing was changed.
    pub(super) fn unenroll_unit(&self, name: &str, by: &str) -> Result<Changed, EnrolError> {
        let mut waiting = lock(&self.enrolling);
        let config = self.relay.snapshot.load().config.clone();
        let not_ours = || EnrolError::NotEnrolled(name.to_owned());
        let (_, file) = ours(&config).into_iter().find(|(ours, _)| ours == name).ok_or_else(not_ours)?;
        let before = read_if_there(&file)?.ok_or_else(not_ours)?;
        self.candidate(&Change { path: file.clone(), text: None })?;
        self.put(&file, None, Some(&before))?;
        if waiting.as_ref().is_some_and(|waiting| waiting.change.name == name) {
            *waiting = None;
            Unconfirmed::forget(&config.paths.state);
        }
        tracing::info!(by, workload = name, "no longer enrolled, by command");
        Ok(Changed { name: name.to_owned() })
    }

    /// Has the last change stay.
    ///
    /// # Errors
    /// Nothing waits.
    pub(super) fn confirm_change(&self, by: &str) -> Result<Changed, EnrolError> {
        let waiting = lock(&self.enrolling).take().ok_or(EnrolError::NothingToConfirm)?;
        Unconfirmed::forget(&self.relay.snapshot.load().config.paths.state);
        tracing::info!(by, workload = waiting.change.name, "the change was confirmed");
        Ok(Changed { name: waiting.change.name })
    }

    /// What was enrolled by command.
    pub(super) fn enrolled_units(&self) -> Vec<Enrolled> {
        let waiting = lock(&self.enrolling);
        let config = self.relay.snapshot.load().config.clone();
        let node = lock(&self.node);
        let known =
            ours(&config).into_iter().filter_map(|(name, file)| Some((config.workload(&name)?, file)));
        let enrolled = known.map(|(workload, file)| {
            let (state, detail) = presence(workload, node.presence(&workload.name));
            let waits = waiting.as_ref().filter(|waiting| waiting.change.name == workload.name);
            Enrolled {
                name: workload.name.clone(),
                selector: selector(&workload.select),
                mode: workload.mode.to_string(),
                state,
                detail,
                file,
                undone_in: waits.map(Waiting::left),
            }
        });
        enrolled.collect()
    }

    /// Puts back what nobody has confirmed in time. Called at each look at the node.
    pub(super) fn look_at_unconfirmed(&self) {
        let mut waiting = match self.enrolling.try_lock() {
            Ok(waiting) => waiting,
            // A command is at it: the next look is soon.
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if waiting.as_ref().is_none_or(|waiting| Instant::now() < waiting.until) {
            return;
        }
        let Some(Waiting { change, .. }) = waiting.take() else { return };
        match change.put_back() {
            Ok(()) => {
                tracing::warn!(workload = change.name, "the change was not confirmed in time and is undone");
                // What else is wrong with the files by now is in the log, and looked at again when they change.
                self.reload();
                Unconfirmed::forget(&self.relay.snapshot.load().config.paths.state);
            }
            Err(error) => {
                tracing::error!(%error, workload = change.name, "the change was not confirmed in time, and cannot be undone; trying again");
                *waiting =
                    Some(Waiting { change, until: Instant::now() + std::time::Duration::from_secs(5) });
            }
        }
    }

    /// The configuration with a change, if it would be taken.
    fn candidate(&self, change: &Change) -> Result<Config, EnrolError> {
        let offer = std::sync::Arc::clone(&lock(&self.changing).offer);
        Config::load_with(&self.config_file, Some(change), &offer)
            .map(|loaded| loaded.config)
            .map_err(|error| EnrolError::Refused(error.to_string()))
    }

    /// Writes a drop-in, or removes it, and has it in force; or leaves everything as it was.
    fn put(&self, file: &Path, text: Option<&str>, before: Option<&str>) -> Result<(), EnrolError> {
        write(file, text)?;
        let (applied, messages) = self.reload();
        if applied {
            return Ok(());
        }
        if let Err(error) = write(file, before) {
            tracing::error!(%error, "a drop-in that was refused could not be put back");
        }
        self.reload();
        Err(EnrolError::Refused(messages.join("; ")))
    }
}

/// How a workload stands, and which ports it has now.
fn seen(config: &Config, workload: &Workload) -> (Presence, BTreeSet<u16>) {
    let mut found = workload.listen_ports.clone();
    let here = match find(&workload.select, Hierarchy::of(config).as_ref()) {
        Ok(here) => here,
        Err(presence) => return (presence, found),
    };
    if let (true, Some(directory)) = (ports::are_learned(workload), &here.directory) {
        let mut units = Learners::default();
        units.add_unit(directory, 1);
        for netns in &here.namespaces {
            match units.ports_in(netns, 0) {
                Ok(learned) => found.extend(learned.into_keys()),
                Err(error) => return (ports::not_learned(&error), found),
            }
        }
    }
    (here.presence(), found)
}

/// What a workload is called after its unit: no kind, and nothing that a name may not have.
fn name_of(unit: &UnitName) -> String {
    let name = unit.as_str().rsplit_once('.').map_or(unit.as_str(), |(name, _)| name).to_ascii_lowercase();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let mut name: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    name.truncate(63);
    name.trim_matches(['-', '.']).to_owned()
}

fn drop_in(request: &EnrolRequest, unit: &UnitName, name: &str) -> String {
    let list = |ports: &mut dyn Iterator<Item = u16>| {
        ports.map(|port| port.to_string()).collect::<Vec<_>>().join(", ")
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut text = format!(
        "# Written by `mtlsd enroll unit:{unit}`; `mtlsd unenroll` removes it.\nworkloads:\n  - name: {}\n    \
         select: {{ unit: {} }}\n    mode: {}\n",
        quoted(name),
        quoted(unit.as_str()),
        request.mode,
    );
    if !request.listen_ports.is_empty() {
        text += &format!("    listen_ports: [{}]\n", list(&mut request.listen_ports.iter().copied()));
    }
    // Named by the user, they are the unit's own.
    let safe = list(&mut NEVER_LEARNED.into_iter().filter(|port| !request.listen_ports.contains(port)));
    let from = request
        .managed_from
        .map(|address| format!(", cidrs: [{}]", quoted(&address.to_canonical().to_string())));
    text += &format!(
        "    # What this host is managed by is left alone.\n    exclude: {{ ports: [{safe}]{} }}\n",
        from.unwrap_or_default()
    );
    text
}

/// Where the drop-in of this workload is.
fn file_of(config: &Config, name: &str) -> Result<PathBuf, EnrolError> {
    let directory = config.drop_in_directories.first();
    let directory =
        directory.ok_or_else(|| EnrolError::Refused("it has no directory of drop-ins".to_owned()))?;
    Ok(directory.join(format!("{PREFIX}{name}{SUFFIX}")))
}

/// Workloads that were enrolled by command, and their drop-ins.
fn ours(config: &Config) -> Vec<(String, PathBuf)> {
    let name = |file: &Path| {
        let name = file.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        Some((name.to_owned(), file.to_owned()))
    };
    config.files.iter().filter_map(|file| name(file)).collect()
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EnrolError {
    let path = path.to_owned();
    move |source| EnrolError::File { what, path, source }
}

fn read_if_there(file: &Path) -> Result<Option<String>, EnrolError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", file)(error)),
    }
}

/// `None`: removes it.
fn write(file: &Path, text: Option<&str>) -> Result<(), EnrolError> {
    let (Some(directory), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str()))
    else {
        return Err(failed("write", file)(io::ErrorKind::InvalidFilename.into()));
    };
    match text {
        Some(text) => {
            std::fs::create_dir_all(directory).map_err(failed("make", directory))?;
            replace_file(directory, name, |file| file.write_all(text.as_bytes())).map_err(|error| {
                EnrolError::File { what: error.what, path: error.path, source: error.source }
            })
        }
        None => match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", file)(error)),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests;
