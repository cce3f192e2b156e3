//! Which kernels the integration tests run on, and which of the suites on each.

use std::fmt;
use std::str::FromStr;

use crate::vm::KernelName;

/// The kernels of a run without `--kernel`.
const KERNELS: [&str; 4] = ["host", "6.1", "6.12", "7.2"];
/// Every suite by this name: the daemon's unit tests of the datapath, on kernel TLS.
pub const DATAPATH: &str = "datapath";

/// Where the integration tests run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// On this machine.
    Host,
    /// In a virtual machine.
    Guest(KernelName),
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "host" { Ok(Self::Host) } else { text.parse().map(Self::Guest) }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Guest(kernel) => kernel.fmt(f),
        }
    }
}

/// `KERNEL` or `KERNEL=SUITE,SUITE/PART`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub machine: Machine,
    /// Empty: every suite.
    pub suites: Vec<Suite>,
}

/// `SUITE`, or `SUITE/PART`: those of its tests whose name contains the part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// A test program's name, without its package.
    pub name: String,
    /// Empty: every test.
    pub part: String,
}

impl Suite {
    /// Whether this test of this suite is meant.
    pub fn has(&self, suite: &str, test: &str) -> bool {
        self.name == suite && test.contains(&self.part)
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, part) = text.split_once('/').unwrap_or((text, ""));
        if name.is_empty() || (part.is_empty() && text.contains('/')) {
            return Err(format!("`{text}` lacks a name; write KERNEL=SUITE,SUITE/PART"));
        }
        Ok(Self { name: name.to_owned(), part: part.to_owned() })
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.part.is_empty() { Ok(()) } else { write!(f, "/{}", self.part) }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((machine, suites)) = text.split_once('=') else {
            return Ok(Self { machine: text.parse()?, suites: Vec::new() });
        };
        let suites = suites.split(',').map(str::parse).collect::<Result<Vec<Suite>, _>>()?;
        match machine.parse()? {
            Machine::Host => Err("the host runs every suite; give a name or a filter instead".to_owned()),
            machine => Ok(Self { machine, suites }),
        }
    }
}

impl Wanted {
    /// Whether this test of this suite (a test program's name, without its package) runs there.
    pub fn has(&self, suite: &str, test: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|wanted| wanted.has(suite, test))
    }
}

/// The kernels that were asked for, or the usual ones.
pub fn named(kernels: &[Wanted]) -> Vec<Wanted> {
    if kernels.is_empty() {
        return KERNELS.iter().filter_map(|name| name.parse().ok()).collect();
    }
    kernels.to_vec()
}

/// What is wrong with the choice: a kernel twice, or an exclusion of none.
pub fn faults(kernels: &[Wanted], exclude: &[Machine]) -> Vec<String> {
    let named = named(kernels);
    let mut faults = Vec::new();
    for (at, wanted) in named.iter().enumerate() {
        if named.iter().take(at).any(|earlier| earlier.machine == wanted.machine) {
            faults.push(format!("--kernel {}: it is named twice; join its suites by commas", wanted.machine));
        }
    }
    for machine in exclude.iter().filter(|machine| !named.iter().any(|wanted| wanted.machine == **machine)) {
        faults.push(format!("--exclude-kernel {machine}: it is not one of the kernels of this run"));
    }
    faults
}

/// The kernels on which the integration tests run.
pub fn chosen(kernels: &[Wanted], exclude: &[Machine]) -> Vec<Wanted> {
    let mut chosen: Vec<Wanted> = Vec::new();
    for wanted in named(kernels) {
        let known = chosen.iter().any(|earlier| earlier.machine == wanted.machine);
        if !known && !exclude.contains(&wanted.machine) {
            chosen.push(wanted);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: FromStr>(names: &[&str]) -> Vec<T>
    where
        T::Err: fmt::Debug,
    {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn kernels_are_chosen_and_excluded_by_name() {
        let names = |kernels: &[&str], exclude: &[&str]| {
            let chosen = chosen(&parse(kernels), &parse(exclude));
            chosen.iter().map(|wanted| wanted.machine.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], &[]), ["host", "6.1", "6.12", "7.2"]);
        assert_eq!(names(&[], &["7.2", "host"]), ["6.1", "6.12"]);
        assert_eq!(names(&["6.12", "/k", "6.12"], &[]), ["6.12", "/k"]);
        assert!("seven".parse::<Machine>().is_err());
    }

    #[test]
    fn suites_are_chosen_for_each_kernel() {
        let wanted: Wanted = "6.1=records,errno".parse().unwrap();
        assert!(wanted.has("records", "a") && wanted.has("errno", "a") && !wanted.has("record", "a"));
        assert!("6.12".parse::<Wanted>().unwrap().has("records", "a"));
        let part: Wanted = "6.12=records/cut,errno".parse().unwrap();
        assert!(part.has("records", "a::cut_off") && part.has("errno", "a") && !part.has("records", "a"));
        for (wrong, reason) in [
            ("host=records", "every suite"),
            ("6.1=", "lacks a name"),
            ("6.1=records/", "lacks a name"),
            ("seven=records", "series"),
        ] {
            let error = wrong.parse::<Wanted>().unwrap_err();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_kernel_named_twice_and_an_exclusion_of_none_are_faults() {
        assert_eq!(faults(&[], &parse(&["7.2"])), Vec::<String>::new());
        let found = faults(&parse(&["6.1", "6.12", "6.1=records"]), &parse(&["7.2"]));
        assert_eq!(found.len(), 2);
        assert!(found.first().is_some_and(|fault| fault.contains("--kernel 6.1: it is named twice")));
        assert!(found.last().is_some_and(|fault| fault.contains("--exclude-kernel 7.2")));
    }
}
