//! What the kernel's TLS can do, or why it cannot be used.

use std::fmt;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use crate::datapath::ktls::keys::Suite;

/// What this kernel's TLS can do: all of it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// The suites that work, at least one.
    pub suites: Vec<Suite>,
    /// Those that do not, and why.
    pub missing: Vec<Missing>,
    /// Can keys be replaced on a live socket (Linux 6.14)?
    pub rekey: bool,
    /// Why not; `None` when they can.
    pub why_no_rekey: Option<String>,
    /// What is wrong with it and got round.
    pub defects: Vec<Defect>,
}

impl Abilities {
    /// May connections move into this kernel without being asked to? One that cannot change keys would end them where
    /// user space goes on.
    #[must_use]
    pub fn serves_auto(&self) -> bool {
        self.rekey
    }

    /// Is this wrong with it?
    #[must_use]
    pub fn has(&self, defect: Defect) -> bool {
        self.defects.contains(&defect)
    }

    /// Does this suite work?
    #[must_use]
    pub fn can(&self, suite: Suite) -> bool {
        self.suites.contains(&suite)
    }
}

/// On one line, for the log and `mtlsd status`.
impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.suites.iter().map(|suite| suite.name()).collect();
        f.write_str(&names.join(", "))?;
        f.write_str(if self.rekey { "; keys can be changed" } else { "; keys cannot be changed" })?;
        for defect in &self.defects {
            write!(f, "; {}: {}", defect.sentence(), defect.remedy())?;
        }
        Ok(())
    }
}

/// A suite that this kernel cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The suite.
    pub suite: Suite,
    /// Why, with the mend.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.suite.name(), self.why)
    }
}

/// Something that this kernel does wrongly and mtlsd gets round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// Linux 6.12: a record that does not wholly fit into a pipe with bytes in it is cut, and its rest lost
    /// (`tls_sw_splice_read` of net/tls/tls_sw.c).
    SpliceIntoFilledPipe,
    /// Up to Linux 6.4: a record that is not the last of a splice or sendfile() is queued and not pushed (MSG_SENDPAGE_NOTLAST in
    /// `do_tcp_sendpages` of net/ipv4/tcp.c). With a TCP_NOTSENT_LOWAT below it nothing more is taken, and nothing is on its way
    /// whose acknowledgement would make room: the sender waits for ever.
    SendfileStalls,
}

impl Defect {
    /// What is wrong.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::SpliceIntoFilledPipe => "splice into a pipe that is not empty loses bytes",
            Self::SendfileStalls => "sendfile() with a small TCP_NOTSENT_LOWAT stalls",
        }
    }

    /// What mtlsd does about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::SpliceIntoFilledPipe => "mtlsd fills a pipe only when it is empty",
            Self::SendfileStalls => "no connection is direct",
        }
    }
}

/// Why `relay-ktls` cannot be had. The message names the mend.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    /// There was no pair of sockets to try it on.
    #[error("it could not be tried, since there is no loopback connection: {0}; bring the interface `lo` up")]
    NoLoopback(Arc<io::Error>),
    /// No module `tls`.
    #[error(
        "this kernel has no kTLS: setsockopt(TCP_ULP, \"tls\") says ENOENT; {}",
        if *.may_load {
            "run `modprobe tls`, which says why the module cannot be loaded, or use a kernel with CONFIG_TLS"
        } else {
            "mtlsd has no CAP_NET_ADMIN, without which the kernel does not load the module for it: run \
             `modprobe tls` as root, or use a kernel with CONFIG_TLS"
        }
    )]
    NoModule {
        /// Does the kernel load modules on the daemon's behalf?
        may_load: bool,
    },
    /// The kernel has it and does not give it.
    #[error(
        "setsockopt(TCP_ULP, \"tls\") says {}; {}", .0, match .0 {
            Errno::EPERM | Errno::EACCES => {
                "a security module or seccomp filter stands in the way: let mtlsd set TCP_ULP"
            }
            _ => "look at the kernel's log (`dmesg`)",
        }
    )]
    Refused(Errno),
    /// Not one suite works.
    #[error(
        "this kernel's kTLS can do no suite of TLS 1.3 ({}); use Linux 5.10 or later with CONFIG_CRYPTO_GCM or \
         CONFIG_CRYPTO_CHACHA20POLY1305",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    NoSuite(Vec<Missing>),
    /// Bytes do not come through splice as they were sent.
    #[error("splice through this kernel's kTLS does not work: {0}; use another kernel")]
    Splice(Failure),
    /// Alerts cannot be told from data.
    #[error("this kernel's kTLS does not hand out control records as it should: {0}; use another kernel")]
    Control(Failure),
    /// The end of a stream is not where it should be.
    #[error("this kernel's kTLS does not end a stream as it should: {0}; use another kernel")]
    Close(Failure),
}

impl Unavailable {
    /// May it become available while the daemon runs, without anything else being changed?
    #[must_use]
    pub fn is_for_want_of_the_module(&self) -> bool {
        matches!(self, Self::NoModule { .. })
    }
}

/// What came of one thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A call failed.
    #[error("{0} says {1}")]
    Call(&'static str, Errno),
    /// Nothing came within the time.
    #[error("the kernel did not answer ({0})")]
    NoAnswer(&'static str),
    /// Something else came than should have.
    #[error("{0}")]
    Wrong(String),
}

impl Failure {
    /// A call that failed.
    pub(super) fn call(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Call(what, errno)
    }

    /// The same of the standard library.
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.raw_os_error() {
            Some(number) => Self::Call(what, Errno::from_raw(number)),
            None => Self::Wrong(format!("{what}: {error}")),
        }
    }

    /// Why a suite does not work, with the mend.
    pub(super) fn of_suite(&self, suite: Suite) -> String {
        match self {
            Self::Call(_, Errno::ENOENT) => {
                let module = match suite {
                    Suite::Aes128Gcm | Suite::Aes256Gcm => "gcm",
                    Suite::ChaCha20Poly1305 => "chacha20poly1305",
                };
                format!("{self}: the kernel has no such cipher; run `modprobe {module}`")
            }
            Self::Call(_, Errno::EINVAL | Errno::ENOPROTOOPT) => {
                format!("{self}: this kernel's kTLS does not know the suite; use Linux 5.11 or later")
            }
            other => other.to_string(),
        }
    }
}
