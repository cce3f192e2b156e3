//! The programs that learn which descriptor a connect() or an accept() is about (`mtls-ebpf/src/descriptor.rs`).
//!
//! They are tracing programs, which not every kernel lets a process load, and are there only while a workload is direct. They
//! are not pinned: without a daemon nothing becomes direct.

use aya::programs::{FEntry, FExit, Program, ProgramError};
use aya::{Btf, Ebpf, VerifierLogLevel};

use super::error::{CaptureError, NoDirect};
use super::pins::Pins;
use super::programs::{self, EbpfLog, Features};

/// Attached as long as it lives.
pub(super) struct Tracing {
    _object: Ebpf,
}

/// Where accept() gives its socket: the kernel's signature changed in 6.10.
const ACCEPT_TAKES: [&str; 2] = ["accept_takes", "accept_takes_6_9"];

/// What the names of system calls begin with.
fn system_call_prefix(architecture: &str) -> Option<&'static str> {
    match architecture {
        "x86_64" => Some("__x64_sys_"),
        "aarch64" => Some("__arm64_sys_"),
        _ => None,
    }
}

/// Loads and attaches them all, or none.
///
/// # Errors
/// Why this machine has no `direct`.
pub(super) fn attach(
    pins: &Pins,
    features: Features,
    log: EbpfLog,
    ours: impl Fn(u32) -> bool,
) -> Result<Tracing, NoDirect> {
    let architecture = std::env::consts::ARCH;
    let prefix = system_call_prefix(architecture).ok_or(NoDirect::Architecture(architecture))?;
    let btf = Btf::from_sys_fs().map_err(|error| CaptureError::from(aya::EbpfError::from(error)))?;
    let mut object =
        programs::load(pins, programs::Constants::new(features, log, 0), VerifierLogLevel::default())?;
    let (accept, accept4) = (format!("{prefix}accept"), format!("{prefix}accept4"));
    // First the one whose refusal tells: where it is refused, all are.
    load(&mut object, "connect_enters", "__sys_connect", &btf)?;
    load(&mut object, "connect_enters_again", "__sys_connect", &btf)?;
    load(&mut object, "connect_leaves", "__sys_connect", &btf)?;
    load(&mut object, "accept_returns", &accept, &btf)?;
    load(&mut object, "accept4_returns", &accept4, &btf)?;
    let [newer, older] = ACCEPT_TAKES;
    let takes = match load(&mut object, newer, "inet_csk_accept", &btf) {
        Ok(()) => newer,
        Err(_) => {
            load(&mut object, older, "inet_csk_accept", &btf)?;
            older
        }
    };
    load(&mut object, "bytes_are_asked", "tcp_ioctl", &btf)?;
    // What is remembered must be forgotten again, so what forgets comes first.
    for name in [
        "connect_leaves",
        "connect_enters",
        "connect_enters_again",
        "accept_returns",
        "accept4_returns",
        takes,
        "bytes_are_asked",
    ] {
        let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
        programs::uses_our_tables(program, name, &ours)?;
        let attached = match program {
            Program::FEntry(program) => program.attach().map(drop),
            Program::FExit(program) => program.attach().map(drop),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        attached.map_err(refused(name))?;
    }
    Ok(Tracing { _object: object })
}

fn load(object: &mut Ebpf, name: &'static str, function: &str, btf: &Btf) -> Result<(), NoDirect> {
    let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
    let loaded = match program {
        Program::FEntry(program) => FEntry::load(program, function, btf),
        Program::FExit(program) => FExit::load(program, function, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(refused(name))
}

fn refused(program: &'static str) -> impl Fn(ProgramError) -> NoDirect {
    move |source| NoDirect::Refused { program, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use aya_obj::{Object, ProgramSection};

    use super::*;

    #[test]
    fn the_names_of_system_calls_are_known_for_two_architectures() {
        assert_eq!(system_call_prefix("x86_64"), Some("__x64_sys_"));
        assert_eq!(system_call_prefix("aarch64"), Some("__arm64_sys_"));
        assert_eq!(system_call_prefix("riscv64"), None);
    }

    #[test]
    fn the_object_has_every_program_that_is_loaded_here() {
        let object = Object::parse(programs::OBJECT).unwrap();
        let exits = ["connect_leaves", "accept_returns", "accept4_returns"];
        for name in exits.iter().chain(&ACCEPT_TAKES) {
            assert!(matches!(object.programs[*name].section, ProgramSection::FExit { .. }), "{name}");
        }
        for name in ["connect_enters", "connect_enters_again", "bytes_are_asked"] {
            assert!(matches!(object.programs[name].section, ProgramSection::FEntry { .. }), "{name}");
        }
    }

    #[test]
    fn a_refusal_says_which_program_and_what_becomes_of_the_connections() {
        let error = refused("connect_enters")(ProgramError::NotAttached).to_string();
        assert!(error.contains("connect_enters") && error.contains("relay"), "{error}");
        let error = NoDirect::Architecture("riscv64").to_string();
        assert!(error.contains("riscv64") && error.contains("relay"), "{error}");
    }
}
