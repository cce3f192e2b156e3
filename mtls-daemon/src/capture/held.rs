//! What the daemon attached and pinned, held open: so it can tell whether the kernel still has it, and put it back.
//!
//! While the daemon lives, a pin that is removed detaches nothing, since the link is open here too; the pin is made again,
//! because it is what keeps a strict workload closed once the daemon is gone.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cgroup;
use super::error::CaptureError;
use super::pins::Pins;
use super::programs::{
    self, CGROUP_PROGRAMS, DIRECT_PROGRAMS, MAPS, NETNS_PROGRAM, SOCK_OPS_PROGRAM, attach_type,
};
use crate::sys::bpf;

/// Something that is not as the daemon made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The pin of a table is gone, or is of another table.
    Map(&'static str),
    /// The pin of a program is gone, or is of another program.
    Program(&'static str),
    /// A program does not run where it should.
    Detached {
        /// Its name.
        program: &'static str,
        /// The cgroup's ID or the namespace's cookie.
        target: u64,
        /// Another program has taken its place behind the link.
        replaced: Option<u32>,
    },
    /// It runs, but would not without the daemon: the pin of its link is gone, or is of another link.
    Link {
        /// The program's name.
        program: &'static str,
        /// The cgroup's ID or the namespace's cookie.
        target: u64,
    },
}

impl Fault {
    /// The label of the repair in the metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Detached { .. } => "program",
            Self::Map(_) | Self::Program(_) | Self::Link { .. } => "pin",
        }
    }

    /// The namespace's cookie, if it is about the program of one.
    #[must_use]
    pub fn namespace(&self) -> Option<u64> {
        match self {
            Self::Detached { program: NETNS_PROGRAM, target, .. }
            | Self::Link { program: NETNS_PROGRAM, target } => Some(*target),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |program: &str| if program == NETNS_PROGRAM { "namespace" } else { "cgroup" };
        match self {
            Self::Map(name) => write!(f, "the pin of table {name} is gone or is another table's"),
            Self::Program(name) => write!(f, "the pin of program {name} is gone or is another program's"),
            Self::Detached { program, target, replaced: None } => {
                write!(f, "{program} is not attached to {} {target}", place(program))
            }
            Self::Detached { program, target, replaced: Some(other) } => {
                write!(f, "program {other} has taken the place of {program} at {} {target}", place(program))
            }
            Self::Link { program, target } => {
                write!(
                    f,
                    "the pin of {program} at {} {target} is gone: it ends with the daemon",
                    place(program)
                )
            }
        }
    }
}

/// A map or program with the ID that it has as long as it lives.
struct Object {
    name: &'static str,
    fd: OwnedFd,
    id: u32,
}

/// A link, and the program that belongs behind it.
struct HeldLink {
    fd: OwnedFd,
    program: u32,
}

/// See the module.
pub struct Held {
    pins: Pins,
    maps: Vec<Object>,
    programs: Vec<Object>,
    /// Which program runs at which cgroup.
    places: Mutex<Vec<(&'static str, u64)>>,
    /// The cgroup root's ID.
    root: u64,
    cgroups: HashMap<u64, File>,
    links: Mutex<HashMap<(&'static str, u64), HeldLink>>,
}

impl Held {
    /// Opens the tables and programs that were just pinned. `root`: the cgroup root.
    ///
    /// # Errors
    /// When a pin cannot be opened.
    pub fn open(pins: &Pins, root: &Path) -> Result<Self, CaptureError> {
        let (file, root_id) = programs::open_cgroup(root)?;
        let mut cgroups = HashMap::from([(root_id, file)]);
        if let Some(own) = cgroup::own_outside_of(root) {
            let (file, id) = programs::open_cgroup(&own)?;
            cgroups.insert(id, file);
        }
        Ok(Self {
            maps: objects(&MAPS, |name| pins.map(name))?,
            programs: objects(&[&CGROUP_PROGRAMS[..], &DIRECT_PROGRAMS].concat(), |name| pins.program(name))?,
            links: Mutex::default(),
            pins: pins.clone(),
            places: Mutex::default(),
            root: root_id,
            cgroups,
        })
    }

    /// Holds the links of the programs of cgroups, which were just attached.
    ///
    /// # Errors
    /// When a pin cannot be opened.
    pub fn hold_attached(&self) -> Result<(), CaptureError> {
        let mut places: Vec<_> = CGROUP_PROGRAMS.iter().map(|name| (*name, self.root)).collect();
        let direct = DIRECT_PROGRAMS.iter().filter(|name| self.pins.link(name, self.root).exists());
        places.extend(direct.map(|name| (*name, self.root)));
        let own = self.cgroups.keys().filter(|id| **id != self.root);
        places.extend(own.map(|id| (SOCK_OPS_PROGRAM, *id)));
        for (name, target) in &places {
            self.hold(name, *target)?;
        }
        *self.lock_places() = places;
        Ok(())
    }

    /// Holds the link that is pinned now.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn hold(&self, program: &'static str, target: u64) -> Result<(), CaptureError> {
        let path = self.pins.link(program, target);
        let open = || -> io::Result<HeldLink> {
            let fd = bpf::object_get(&path)?;
            let there = bpf::link(fd.as_fd())?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            Ok(HeldLink { fd, program: there.program })
        };
        let link = open().map_err(|source| CaptureError::pin(&path, source))?;
        self.links().insert((program, target), link);
        Ok(())
    }

    /// Lets a namespace's link go: without its pin it is detached.
    pub fn let_go(&self, namespace: u64) {
        self.links().remove(&(NETNS_PROGRAM, namespace));
    }

    /// The map of that name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.maps.iter().find(|map| map.name == name).map(|map| map.fd.as_fd())
    }

    /// Pins every table where its pin is missing: a program that is loaded without it would get an empty table of its own.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn restore_maps(&self) -> Result<(), CaptureError> {
        for map in &self.maps {
            let path = self.pins.map(map.name);
            if !is_pinned(map, &path) {
                self.pin(map.fd.as_fd(), &path)?;
            }
        }
        Ok(())
    }

    /// Whether this is the ID of one of the tables.
    #[must_use]
    pub fn has_map(&self, id: u32) -> bool {
        self.maps.iter().any(|map| map.id == id)
    }

    /// The ID of the program that belongs at this place.
    #[must_use]
    pub fn program_at(&self, program: &'static str, target: u64) -> Option<u32> {
        self.links().get(&(program, target)).map(|link| link.program)
    }

    /// The programs of cgroups with the cgroup's ID.
    pub fn places(&self) -> impl Iterator<Item = (&'static str, u64, Option<BorrowedFd<'_>>)> {
        let places = self.lock_places().clone();
        places.into_iter().map(|(name, id)| (name, id, self.cgroups.get(&id).map(AsFd::as_fd)))
    }

    /// Attaches the programs that direct connections need to the cgroup root, unless they are there. From then on they are
    /// watched as the others are.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach_direct(&self) -> Result<(), CaptureError> {
        for name in DIRECT_PROGRAMS {
            let place = (name, self.root);
            let there = self.lock_places().contains(&place);
            if !there {
                self.attach(name, self.root)?;
                self.lock_places().push(place);
            }
        }
        Ok(())
    }

    /// What is not as it was made, of the node and of these namespaces.
    #[must_use]
    pub fn faults(&self, namespaces: &[u64]) -> Vec<Fault> {
        let mut faults = Vec::new();
        // First: a program that is loaded again takes its tables from their pins.
        let maps = self.maps.iter().filter(|map| !is_pinned(map, &self.pins.map(map.name)));
        faults.extend(maps.map(|map| Fault::Map(map.name)));
        let programs = self.programs.iter().filter(|p| !is_pinned(p, &self.pins.program(p.name)));
        faults.extend(programs.map(|program| Fault::Program(program.name)));
        let links = self.links();
        let namespaces = namespaces.iter().map(|cookie| (NETNS_PROGRAM, *cookie));
        let places = self.lock_places().clone();
        for (program, target) in places.into_iter().chain(namespaces) {
            let held = links.get(&(program, target));
            faults.extend(self.fault_of(program, target, held));
        }
        faults
    }

    fn fault_of(&self, program: &'static str, target: u64, held: Option<&HeldLink>) -> Option<Fault> {
        let detached = |replaced| Some(Fault::Detached { program, target, replaced });
        let Some(held) = held else { return detached(None) };
        let Ok(Some(there)) = bpf::link(held.fd.as_fd()) else { return detached(None) };
        if there.program != held.program {
            return detached(Some(there.program));
        }
        let pinned = bpf::object_get(&self.pins.link(program, target));
        let pinned = pinned.and_then(|fd| bpf::link(fd.as_fd()));
        match pinned {
            Ok(Some(link)) if link.id == there.id => None,
            _ => Some(Fault::Link { program, target }),
        }
    }

    /// Puts back what needs nothing but what is held here. `false`: the program of a namespace has to be loaded again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn repair(&self, fault: &Fault) -> Result<bool, CaptureError> {
        match fault {
            Fault::Map(name) => self.pin(object(&self.maps, name)?, &self.pins.map(name))?,
            Fault::Program(name) => self.pin(object(&self.programs, name)?, &self.pins.program(name))?,
            Fault::Link { program, target } => {
                let links = self.links();
                let link = links.get(&(*program, *target)).ok_or(CaptureError::Gone("link"))?;
                self.pin(link.fd.as_fd(), &self.pins.link(program, *target))?;
            }
            Fault::Detached { program: NETNS_PROGRAM, .. } => return Ok(false),
            Fault::Detached { program, target, .. } => self.attach(program, *target)?,
        }
        Ok(true)
    }

    /// Attaches a program to its cgroup anew, behind whatever is there, and then lets the old link go.
    fn attach(&self, program: &'static str, target: u64) -> Result<(), CaptureError> {
        let path = self.pins.link(program, target);
        let fd = object(&self.programs, program)?;
        let cgroup = self.cgroups.get(&target).ok_or(CaptureError::Gone("cgroup"))?;
        let mut links = self.links();
        let mut attach = || -> io::Result<HeldLink> {
            let id = bpf::object_id(fd)?;
            // A link that has lost its program to another gets it back in one step.
            if let Some(old) = links.remove(&(program, target))
                && bpf::link_update(old.fd.as_fd(), fd).is_ok()
            {
                return Ok(HeldLink { fd: old.fd, program: id });
            }
            let link = bpf::link_create(fd, cgroup.as_fd(), attach_type(program))?;
            Ok(HeldLink { fd: link, program: id })
        };
        let link = attach().map_err(|source| CaptureError::pin(&path, source))?;
        self.pin(link.fd.as_fd(), &path)?;
        links.insert((program, target), link);
        Ok(())
    }

    fn pin(&self, object: BorrowedFd<'_>, path: &Path) -> Result<(), CaptureError> {
        self.pins.make()?;
        Pins::remove(path)?;
        bpf::object_pin(object, path).map_err(|source| CaptureError::pin(path, source))
    }

    fn lock_places(&self) -> MutexGuard<'_, Vec<(&'static str, u64)>> {
        // No code panics while it holds this lock.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, HashMap<(&'static str, u64), HeldLink>> {
        // No code panics while it holds this lock.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn objects(names: &[&'static str], path: impl Fn(&str) -> PathBuf) -> Result<Vec<Object>, CaptureError> {
    let open = |name: &&'static str| {
        let path = path(name);
        let open = || {
            let fd = bpf::object_get(&path)?;
            let id = bpf::object_id(fd.as_fd())?;
            Ok(Object { name, fd, id })
        };
        open().map_err(|source: io::Error| CaptureError::pin(&path, source))
    };
    names.iter().map(open).collect()
}

fn object<'a>(all: &'a [Object], name: &'static str) -> Result<BorrowedFd<'a>, CaptureError> {
    let found = all.iter().find(|object| object.name == name);
    found.map(|object| object.fd.as_fd()).ok_or(CaptureError::Missing(name))
}

fn is_pinned(object: &Object, path: &Path) -> bool {
    bpf::object_get(path).and_then(|fd| bpf::object_id(fd.as_fd())).is_ok_and(|id| id == object.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_is_wrong_where_and_how_its_repair_is_counted() {
        let detached = Fault::Detached { program: "connect4", target: 7, replaced: None };
        assert_eq!(detached.to_string(), "connect4 is not attached to cgroup 7");
        assert_eq!((detached.code(), detached.namespace()), ("program", None));
        let replaced = Fault::Detached { program: NETNS_PROGRAM, target: 9, replaced: Some(55) };
        assert_eq!(replaced.to_string(), "program 55 has taken the place of steer_inbound at namespace 9");
        assert_eq!((replaced.code(), replaced.namespace()), ("program", Some(9)));
        let link = Fault::Link { program: NETNS_PROGRAM, target: 9 };
        assert!(link.to_string().contains("ends with the daemon"), "{link}");
        assert_eq!((link.code(), link.namespace()), ("pin", Some(9)));
        for fault in [Fault::Map("WORKLOADS"), Fault::Program("egress")] {
            assert_eq!((fault.code(), fault.namespace()), ("pin", None));
            assert!(fault.to_string().contains("is gone"), "{fault}");
        }
    }

    #[test]
    fn what_is_not_pinned_is_not_taken_for_it() {
        let fd = OwnedFd::from(File::open("/dev/null").unwrap());
        let object = Object { name: "WORKLOADS", fd, id: 1 };
        assert!(!is_pinned(&object, Path::new("/sys/fs/bpf/mtlsd-no-such-object")));
    }
}
