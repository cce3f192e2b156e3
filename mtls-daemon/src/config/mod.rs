//! Configuration: one YAML file plus drop-ins, parsed strictly into [`Config`].
//!
//! `read` (bounded, ordered) → `yaml` (text to raw documents) → `check` (everything that is wrong, with its place)
//! → [`Config`], which holds what its types say.

mod at;
mod check;
mod direct;
mod error;
mod external;
mod inside;
mod istio;
mod kubernetes;
mod nested;
mod number;
mod policy_tests;
mod raw;
mod read;
mod rule;
mod scalar;
mod schema;
#[cfg(test)]
mod tests;
mod types;
mod unit;
mod workload;
mod yaml;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use check::{Check, WHOLE_FILE};

pub use direct::{Direct, DirectChoice, NodeAddress, NodeAddressError, UnfitSettings};
pub use error::{ConfigError, Fault, Place, Problem, Quoted};
pub use external::{ExternalCache, ExternalPolicy, OnFailure};
pub use inside::{Inside, Unknown};
pub use kubernetes::{
    Instead, Kubernetes, Offer, OfferedBackend, OfferedDestination, OfferedPeer, OfferedPod, OfferedPolicy,
    Outcome, PodSelector, PolicyKind, PolicyName, PolicySource, ResolvedService, UnclassifiedPods, Verdict,
};
pub(crate) use nested::nested;
pub use number::number_of;
pub use policy_tests::{End, PolicyTest, Who, load_policy_tests, parse_policy_tests};
pub use read::{MAX_BYTES, MAX_DROP_INS, Source};
pub use rule::*;
pub use scalar::{
    CgroupError, CidrError, DnsNameError, DurationError, NameError, NetnsError, PathError, is_never_captured,
};
pub use schema::schema;
pub use types::*;
pub use unit::{UnitError, UnitName};

/// A drop-in that is not there yet, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its file.
    pub path: PathBuf,
    /// What it will say; `None`: it will be gone.
    pub text: Option<String>,
}

impl Change {
    fn apply(&self, files: &mut Vec<PathBuf>) {
        files.retain(|file| *file != self.path);
        if self.text.is_some() {
            // They are read in the order of their names, directory by directory.
            let behind = |file: &PathBuf| file.parent() == self.path.parent() && *file > self.path;
            let place = files.iter().position(behind).unwrap_or(files.len());
            files.insert(place, self.path.clone());
        }
    }
}

impl Config {
    /// Reads the file and its drop-ins.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_as_if(path, None)
    }

    /// The same as if one of the drop-ins were another one: to know what would become of a change before it is made.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_as_if(path: &Path, change: Option<&Change>) -> Result<Self, ConfigError> {
        Self::load_with(path, change, &Offer::default()).map(|loaded| loaded.config)
    }

    /// The same, with what the cluster offers.
    ///
    /// # Errors
    /// As [`Config::load`]; never for the offer.
    pub fn load_with(path: &Path, change: Option<&Change>, offer: &Offer) -> Result<Loaded, ConfigError> {
        let mut check = Check::new();
        let mut budget = MAX_BYTES;
        let mut sources = Vec::new();
        let mut keep = |path: &Path, text: &str| {
            sources.push(Source { path: path.to_owned(), text: text.to_owned() });
        };
        check.enter(path);
        let main = match read::read_file(path, &mut budget) {
            Ok(text) => {
                keep(path, &text);
                parse_document(&mut check, &text)
            }
            Err(fault) => {
                check.fault(WHOLE_FILE, fault);
                None
            }
        };
        let Some(main) = main else { return Err(check.into_error()) };
        let directories = drop_in_directories(&mut check, path, &main);
        let mut drop_ins = Vec::new();
        let mut files = drop_in_files(&mut check, &directories);
        if let Some(change) = change {
            change.apply(&mut files);
        }
        for file in files {
            let index = check.enter(&file);
            let read = match change {
                Some(Change { path, text: Some(text) }) if *path == file => Ok(text.clone()),
                _ => read::read_file(&file, &mut budget),
            };
            match read {
                Ok(text) => {
                    keep(&file, &text);
                    drop_ins.extend(parse_drop_in(&mut check, &text).map(|drop_in| (index, drop_in)));
                }
                Err(fault) => {
                    let full = fault == Fault::FilesTooLarge;
                    check.fault(WHOLE_FILE, fault);
                    if full {
                        break;
                    }
                }
            }
        }
        let directories = directories.into_iter().map(|directory| directory.path).collect();
        let config = check::check(check, main, drop_ins, directories, offer)?;
        Ok(Loaded { config, sources: Sources(sources) })
    }

    /// Parses a configuration that was read elsewhere; `include` is checked but nothing is read.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files.
    pub fn parse(main: &Source, drop_ins: &[Source]) -> Result<Self, ConfigError> {
        Self::parse_with(main, drop_ins, &Offer::default())
    }

    /// The same, with what the cluster offers.
    ///
    /// # Errors
    /// As [`Config::parse`]; never for the offer.
    pub fn parse_with(main: &Source, drop_ins: &[Source], offer: &Offer) -> Result<Self, ConfigError> {
        let mut check = Check::new();
        check.enter(&main.path);
        let document = parse_document(&mut check, &main.text);
        let directories = match &document {
            Some(document) => drop_in_directories(&mut check, &main.path, document),
            None => Vec::new(),
        };
        let mut parsed = Vec::new();
        for source in drop_ins {
            let index = check.enter(&source.path);
            parsed.extend(parse_drop_in(&mut check, &source.text).map(|drop_in| (index, drop_in)));
        }
        let Some(document) = document else { return Err(check.into_error()) };
        let directories = directories.into_iter().map(|directory| directory.path).collect();
        check::check(check, document, parsed, directories, offer)
    }
}

/// A configuration, and the files that it was made of.
#[derive(Debug)]
pub struct Loaded {
    /// What they say.
    pub config: Config,
    /// What they said, to be read again when the cluster offers something else: the files may be broken by then.
    pub sources: Sources,
}

/// The files that a configuration was made of: the main one, then the drop-ins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// The configuration with what the cluster offers now.
    ///
    /// # Errors
    /// As [`Config::parse`]; of files that were good once there is none.
    pub fn with(&self, offer: &Offer) -> Result<Config, ConfigError> {
        match self.0.split_first() {
            Some((main, drop_ins)) => Config::parse_with(main, drop_ins, offer),
            None => Err(Check::new().into_error()),
        }
    }
}

fn parse_document<T: serde::de::DeserializeOwned>(check: &mut Check, text: &str) -> Option<T> {
    yaml::parse(text).map_err(|(spot, fault)| check.fault(spot, fault)).ok()
}

/// What a drop-in holds.
enum DropIn {
    Ours(raw::DropIn),
    Istio(Vec<at::At<istio::IstioResource>>),
}

fn parse_drop_in(check: &mut Check, text: &str) -> Option<DropIn> {
    match istio::is_resources(text) {
        true => Some(DropIn::Istio(istio::parse(check, text))),
        false => parse_document(check, text).map(DropIn::Ours),
    }
}

struct DropInDirectory {
    path: PathBuf,
    /// Where it is named; `None`: the default one, which may be missing.
    named_at: Option<at::Spot>,
}

fn drop_in_directories(check: &mut Check, main: &Path, document: &raw::Document) -> Vec<DropInDirectory> {
    if document.include.is_empty() {
        return vec![DropInDirectory { path: read::default_drop_in_directory(main), named_at: None }];
    }
    let mut seen = check::Seen::new("directory", "write it once");
    let mut directories = Vec::new();
    for at in &document.include {
        if let Some(path) = check.path(at) {
            seen.note(check, &path, &at.value, at.spot);
            directories.push(DropInDirectory { path, named_at: Some(at.spot) });
        }
    }
    directories
}

fn drop_in_files(check: &mut Check, directories: &[DropInDirectory]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for DropInDirectory { path, named_at } in directories {
        let spot = named_at.unwrap_or(WHOLE_FILE);
        match read::list_directory(path) {
            Ok(listing) => {
                files.extend(listing.files);
                for ignored in listing.ignored {
                    check.warn_about(&ignored, Fault::NotReadBySuffix);
                }
            }
            Err(error) if named_at.is_none() && error.kind() == ErrorKind::NotFound => {}
            Err(error) => check.fault(spot, Fault::Unreadable(format!("{}: {error}", path.display()))),
        }
    }
    if files.len() > MAX_DROP_INS {
        check.fault(WHOLE_FILE, Fault::TooManyDropIns);
        files.clear();
    }
    files
}
