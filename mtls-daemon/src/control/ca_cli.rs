//! The command line of `mtlsd ca`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::cli::Output;
use super::token_args::{NewKeyArgs, TokenArgs};
use crate::identity::ca::revoke::RevocationReason;
use crate::identity::{SpiffeId, SubjectAttribute, TrustDomain};

/// Which CA.
#[derive(Debug, Args)]
pub struct CaAt {
    /// Where the CA lives
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/mtlsd/ca")]
    pub directory: PathBuf,
}

/// `mtlsd ca …`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a root and an intermediate
    Init {
        /// Which; its directory must be empty.
        #[command(flatten)]
        ca: CaAt,
        /// The trust domain that it vouches for, such as example.org
        #[arg(long, value_name = "NAME")]
        trust_domain: TrustDomain,
        /// Write the root's key to this directory and not to the CA's; take it off the node afterwards
        #[arg(long, value_name = "DIRECTORY")]
        offline_root: Option<PathBuf>,
        /// Where the intermediate's key is.
        #[command(flatten)]
        token: TokenArgs,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Make a key and a request (CSR) for an intermediate that your own PKI signs
    Csr {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// The trust domain that it shall vouch for, if there is no CA yet
        #[arg(long, value_name = "NAME", conflicts_with = "renew")]
        trust_domain: Option<TrustDomain>,
        /// Ask for a new certificate of the key in force, which your PKI has signed before
        #[arg(long, conflicts_with_all = ["pkcs11_module", "key_in_file"])]
        renew: bool,
        /// Where the key is.
        #[command(flatten)]
        key: NewKeyArgs,
        /// The file to write to; without it, standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Check the intermediate that your PKI has signed and put it in force: as the CA, as the second one of a rotation, or
    /// as a renewal, whichever key it is for
    Import {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// PEM: the intermediate, then the certificates above it
        #[arg(value_name = "CHAIN")]
        chain: PathBuf,
        /// PEM: the root that peers shall believe; may be left out for a renewal
        #[arg(long, value_name = "FILE")]
        root: Option<PathBuf>,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Issue a certificate: writes tls.crt, tls.key and ca.crt
    Issue(IssueArgs),
    /// Renew the intermediate of a CA whose root's key is elsewhere; a daemon that runs takes it up
    RenewIntermediate {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// The directory that holds the root's key
        #[arg(long, value_name = "DIRECTORY")]
        root: Option<PathBuf>,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Say what was issued and is still valid, and how far a rotation is
    List {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// Also what has expired
        #[arg(long)]
        all: bool,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Mark certificates as revoked, for the next CRL
    Revoke {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// The certificate with this serial, in hex, as `mtlsd ca list` shows it
        #[arg(long, value_name = "HEX", value_parser = serial, required_unless_present = "spiffe_id", conflicts_with = "spiffe_id")]
        serial: Option<String>,
        /// Every certificate of this SPIFFE ID that is valid now
        #[arg(long, value_name = "ID")]
        spiffe_id: Option<SpiffeId>,
        /// Why: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn
        #[arg(long, value_name = "REASON", default_value = "unspecified")]
        reason: RevocationReason,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Sign CRLs: of each intermediate, and of each root whose key is at hand
    Crl {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// The directory that holds the root's key, if it is elsewhere
        #[arg(long, value_name = "DIRECTORY")]
        root: Option<PathBuf>,
        /// How long they are good for (nextUpdate): a number with s, m, h or d
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = lifetime)]
        lifetime: Duration,
        /// The file to write to; without it, standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Change the root, in three steps; a daemon that runs takes each up
    Rotate {
        /// Which.
        #[command(flatten)]
        ca: CaAt,
        /// What to do.
        #[command(flatten)]
        step: StepArgs,
        /// With --begin: write the new root's key to this directory and not to the CA's
        #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["switch", "finish"])]
        offline_root: Option<PathBuf>,
        /// With --begin: where the new key is; without, where the one in force is.
        #[command(flatten)]
        key: NewKeyArgs,
        /// With --finish: although certificates of the old root are still valid
        #[arg(long, conflicts_with_all = ["begin", "switch"])]
        force: bool,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
}

/// Arguments of `mtlsd ca issue`.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Which.
    #[command(flatten)]
    pub ca: CaAt,
    /// The SPIFFE ID of the certificate
    #[arg(long, value_name = "ID")]
    pub spiffe_id: SpiffeId,
    /// A DNS name of the certificate; may be given several times
    #[arg(long = "dns", value_name = "NAME")]
    pub dns_names: Vec<String>,
    /// Its subject's O; without it, the trust domain
    #[arg(long, value_name = "TEXT")]
    pub organization: Option<SubjectAttribute>,
    /// Its subject's OU
    #[arg(long, value_name = "TEXT")]
    pub organizational_unit: Option<SubjectAttribute>,
    /// Its subject's CN
    #[arg(long, value_name = "TEXT")]
    pub common_name: Option<SubjectAttribute>,
    /// How long it is valid: a number with s, m, h or d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    pub lifetime: Duration,
    /// The directory to write to
    #[arg(long, value_name = "DIRECTORY")]
    pub out: PathBuf,
    /// How to answer.
    #[command(flatten)]
    pub output: Output,
}

/// Exactly one step of a rotation.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct StepArgs {
    /// Make a second root: both are believed, the old one issues
    #[arg(long)]
    begin: bool,
    /// Issue from the second one: both are believed
    #[arg(long, conflicts_with_all = ["pkcs11_module", "key_in_file"])]
    switch: bool,
    /// Forget the old root, when nothing that it vouches for is in use
    #[arg(long, conflicts_with_all = ["pkcs11_module", "key_in_file"])]
    finish: bool,
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationStep {
    /// Add.
    Begin,
    /// Use.
    Switch,
    /// Remove.
    Finish,
}

impl StepArgs {
    /// The one that was given.
    #[must_use]
    pub fn step(&self) -> RotationStep {
        match (self.begin, self.switch) {
            (true, _) => RotationStep::Begin,
            (false, true) => RotationStep::Switch,
            // clap lets nothing else through.
            (false, false) => RotationStep::Finish,
        }
    }
}

fn serial(text: &str) -> Result<String, String> {
    let hex = |c: char| c.is_ascii_hexdigit() || c == ':';
    match !text.is_empty() && text.len() <= 64 && text.chars().all(hex) {
        true => Ok(text.to_owned()),
        false => Err("write it in hex, as `mtlsd ca list` shows it".to_owned()),
    }
}

pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let mend =
        || format!("{text:?} is not a duration; write a whole number above 0 with s, m, h or d, such as 1h");
    let unit = text.chars().last().ok_or_else(mend)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(mend()),
    };
    let number = text.strip_suffix(unit).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let number: u64 = number.and_then(|n| n.parse().ok()).ok_or_else(mend)?;
    number.checked_mul(seconds).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_unit_and_are_bounded() {
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("2d"), Ok(Duration::from_secs(172_800)));
        for bad in [
            "",
            "h",
            "0h",
            "1",
            "1 h",
            "+1h",
            "-1h",
            "1.5h",
            "1é",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert!(lifetime(bad).unwrap_err().contains("such as 1h"), "{bad}");
        }
    }
}
