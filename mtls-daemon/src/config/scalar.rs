//! Single values out of their text, each with its own reasons.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

mod external;
mod policy;
mod vault;

use crate::identity::alarm::Threshold;
pub use external::ExternalUrlError;
pub(super) use external::external_url;
pub use policy::{ServiceAccountError, WorkloadLabelError};
pub(super) use policy::{service_account, workload_label};
pub use vault::{VaultAddressError, VaultPathError};
pub(super) use vault::{vault_address, vault_name, vault_path};

/// Longest name of a workload, directory entry or rule, in bytes.
pub const MAX_NAME_LEN: usize = 63;
/// Where `ip netns` keeps its namespaces.
pub const NETNS_DIRECTORY: &str = "/run/netns";

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing in it.
    #[error("it is empty; write a name such as web-1")]
    Empty,
    /// Longer than `MAX_NAME_LEN`.
    #[error("it is {0} bytes long; a name has at most {MAX_NAME_LEN}")]
    TooLong(usize),
    /// A character that a name may not have.
    #[error("it has the character {0:?}; use a-z, 0-9, '-' and '.'")]
    Character(char),
    /// `-` or `.` at an end.
    #[error("it starts or ends with '-' or '.'; start and end with a letter or digit")]
    Edge,
}

/// `[a-z0-9]([-a-z0-9.]*[a-z0-9])?`, at most [`MAX_NAME_LEN`] bytes.
pub(super) fn name(text: &str) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong(text.len()));
    }
    if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')) {
        return Err(NameError::Character(bad));
    }
    if text.starts_with(['-', '.']) || text.ends_with(['-', '.']) {
        return Err(NameError::Edge);
    }
    Ok(text.to_owned())
}

/// Why a text is not the label of a token or a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing in it.
    #[error("it is empty; write what pkcs11-tool shows as the label")]
    Empty,
    /// Longer than it can be.
    #[error("it is {0} bytes long; this label has at most {1}")]
    TooLong(usize, usize),
    /// A control character, or a space at an end, which nobody sees.
    #[error("it has a control character, or a space at an end; give the token or key another label")]
    Invisible,
}

/// Longest label of a token: the field has so many bytes (PKCS #11 v2.40 section 3.2, CK_TOKEN_INFO).
pub(super) const MAX_TOKEN_LABEL: usize = 32;
/// Longest label of a key.
pub(super) const MAX_KEY_LABEL: usize = 64;

/// The label of a token or a key, as it is.
pub(super) fn label(text: &str, max: usize) -> Result<String, LabelError> {
    match text {
        "" => Err(LabelError::Empty),
        text if text.len() > max => Err(LabelError::TooLong(text.len(), max)),
        text if text.trim() != text || text.contains(char::is_control) => Err(LabelError::Invisible),
        text => Ok(text.to_owned()),
    }
}

/// Why a text is not a DNS name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// Longer than 253 bytes (RFC 1035).
    #[error("it is {0} bytes long; a DNS name has at most 253")]
    TooLong(usize),
    /// A label that is empty or longer than 63 bytes (RFC 1035).
    #[error("it has a label of {0} bytes; a label has 1 to 63, and there is no '.' at the start or end")]
    Label(usize),
    /// A character outside RFC 1123.
    #[error("it has the character {0:?}; use lower-case letters, digits and '-' (no wildcard)")]
    Character(char),
    /// `-` at an end of a label.
    #[error("it has a label that starts or ends with '-'; remove that '-'")]
    Hyphen,
}

/// A host name in the letters of RFC 1123, lower case, so that comparing is comparing bytes.
pub(super) fn dns_name(text: &str) -> Result<String, DnsNameError> {
    if text.len() > 253 {
        return Err(DnsNameError::TooLong(text.len()));
    }
    for label in text.split('.') {
        if let Some(bad) = label.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(DnsNameError::Character(bad));
        }
        if label.is_empty() || label.len() > 63 {
            return Err(DnsNameError::Label(label.len()));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(DnsNameError::Hyphen);
        }
    }
    Ok(text.to_owned())
}

/// Why a text is not the threshold of an alarm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// A percentage that no life has left.
    #[error("write a whole percentage from 1% to 99%, or a time such as 6h")]
    Percent,
    /// Not a duration either.
    #[error(transparent)]
    Time(#[from] DurationError),
}

/// `25%` or `6h`.
pub(super) fn threshold(text: &str) -> Result<Threshold, ThresholdError> {
    let Some(percent) = text.strip_suffix('%') else {
        return Ok(Threshold::Left(duration(
            text,
            Duration::from_secs(1),
            Duration::from_secs(365 * 86_400),
        )?));
    };
    match percent.parse::<u8>() {
        Ok(percent @ 1..=99) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            Ok(Threshold::Share(percent))
        }
        _ => Err(ThresholdError::Percent),
    }
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not numbers with units.
    #[error("it is not whole numbers with units; write it as 300ms, 10s, 5m, 1h or 1h30m")]
    Form,
    /// `off` where there must be a bound.
    #[error("it may not be off here; write a duration such as 10s")]
    Off,
    /// Too short or too long.
    #[error("it is out of range; write one from {} to {}", show(*min), show(*max))]
    Range {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
}

/// A duration in words that [`duration`] reads.
pub(super) fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    match () {
        () if millis == 0 => "0s".to_owned(),
        () if millis.is_multiple_of(86_400_000) => format!("{}d", millis / 86_400_000),
        () if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        () if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        () if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        () => format!("{millis}ms"),
    }
}

/// `10s`, `1h30m`; whole numbers, each with its unit: ms, s, m, h, d.
pub(super) fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, DurationError> {
    if text == "off" {
        return Err(DurationError::Off);
    }
    let mut rest = text;
    let mut millis = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError::Form)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(DurationError::Form),
        };
        if number.is_empty() {
            return Err(DurationError::Form);
        }
        // Beyond u64 it is certainly beyond max.
        let number = number.parse::<u64>().unwrap_or(u64::MAX);
        millis = millis.saturating_add(number.saturating_mul(unit));
        rest = tail;
    }
    if text.is_empty() {
        return Err(DurationError::Form);
    }
    let duration = Duration::from_millis(millis);
    if duration < min || duration > max {
        return Err(DurationError::Range { min, max });
    }
    Ok(duration)
}

/// Why a text is not a path that the daemon uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The daemon's working directory means nothing.
    #[error("it is not absolute; start it with '/'")]
    Relative,
    /// `..` in it.
    #[error("it has a '..' segment; write the path without it")]
    DotDot,
    /// A NUL in it.
    #[error("it has a NUL character; remove that")]
    Nul,
    /// Longer than PATH_MAX.
    #[error("it is {0} bytes long; a path has at most 4095")]
    TooLong(usize),
}

/// An absolute path without `..`.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, PathError> {
    if text.len() > 4095 {
        return Err(PathError::TooLong(text.len()));
    }
    if text.contains('\0') {
        return Err(PathError::Nul);
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(PathError::Relative);
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(PathError::DotDot);
    }
    // Collected anew: `/a//b/` and `/a/b` must compare equal.
    Ok(path.components().collect())
}

/// Why a text is not a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    /// Neither a bare name nor an absolute path.
    #[error("it is neither a name below /run/netns nor an absolute path; write one of these")]
    Form,
    /// A path that cannot be.
    #[error("{0}")]
    Path(#[from] PathError),
}

/// A bare name below [`NETNS_DIRECTORY`], or an absolute path.
pub(super) fn netns(text: &str) -> Result<PathBuf, NetnsError> {
    if text.starts_with('/') {
        let path = absolute_path(text)?;
        // /var/run is a link to /run wherever `ip netns` is.
        return Ok(match path.strip_prefix("/var/run") {
            Ok(rest) => Path::new("/run").join(rest),
            Err(_) => path,
        });
    }
    if text.is_empty() || text.contains('/') || matches!(text, "." | "..") {
        return Err(NetnsError::Form);
    }
    Ok(absolute_path(&format!("{NETNS_DIRECTORY}/{text}"))?)
}

/// Why a text does not select a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// The whole machine, the daemon included.
    #[error("it is the root cgroup, which holds every process and the daemon itself; select one below it")]
    Root,
    /// Deeper than the programs look.
    #[error("it is more than {0} levels below the root; name one of its ancestors")]
    Deep(u32),
    /// A path that cannot be.
    #[error("{0}")]
    Path(#[from] PathError),
}

/// The cgroup below the root of the hierarchy, for comparing: `/kubepods/pod1`, whichever way it was written.
pub(super) fn cgroup(text: &str, root: Option<&Path>) -> Result<PathBuf, CgroupError> {
    let path = absolute_path(&format!("/{}", text.trim_start_matches('/')))?;
    let below = [root, Some(Path::new("/sys/fs/cgroup/unified")), Some(Path::new("/sys/fs/cgroup"))]
        .into_iter()
        .flatten()
        .find_map(|mount| path.strip_prefix(mount).ok())
        .map_or_else(|| path.clone(), |rest| Path::new("/").join(rest));
    if below == Path::new("/") {
        return Err(CgroupError::Root);
    }
    Ok(below)
}

/// Why a text is not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Neither `address` nor `address/length`.
    #[error("it is neither an address nor a network; write one such as 10.0.0.2 or 10.0.0.0/24")]
    Form,
    /// Bits set behind the prefix: one of the two is a slip.
    #[error("it has bits set behind its length; write {0}, or the single address without a length")]
    HostBits(IpNet),
    /// `::ffff:10.0.0.1` is 10.0.0.1 on the wire.
    #[error("it is an IPv4 address inside IPv6; write the IPv4 address")]
    Mapped,
}

/// `10.0.0.0/24`, or an address, which is a network of one.
pub(super) fn cidr(text: &str) -> Result<IpNet, CidrError> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| CidrError::Form)?,
    };
    if network.addr() != network.network() {
        return Err(CidrError::HostBits(network.trunc()));
    }
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96 => {
            Err(CidrError::Mapped)
        }
        network => Ok(network),
    }
}

/// Whether no address of this network is ever captured.
pub(super) fn never_captured(network: &IpNet) -> bool {
    // Each class is one prefix: with both ends inside it, the whole network is.
    let class = class_of(network.network());
    class.is_some() && class == class_of(network.broadcast())
}

/// Loopback, link-local, multicast and the like: never a workload's, and never captured. The programs decide so too
/// (`mtls-ebpf/src/address.rs`).
#[must_use]
pub fn is_never_captured(address: IpAddr) -> bool {
    class_of(address).is_some()
}

#[derive(PartialEq)]
enum Class {
    Broadcast,
    Loopback,
    LinkLocal,
    Multicast,
    Unspecified,
}

fn class_of(address: IpAddr) -> Option<Class> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Class::Broadcast),
        _ if link_local => Some(Class::LinkLocal),
        a if a.is_loopback() => Some(Class::Loopback),
        a if a.is_multicast() => Some(Class::Multicast),
        a if a.is_unspecified() => Some(Class::Unspecified),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(365 * 86_400);

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, millis) in [
            ("1ms", 1),
            ("300ms", 300),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            let duration = duration(text, Duration::from_millis(1), LONGEST).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
        }
        for text in ["", "1", "s", "1.5s", "-1s", "1S", "1 s", "1sec", "1ms1", "1µs", "١s"] {
            assert_eq!(duration(text, Duration::ZERO, LONGEST), Err(DurationError::Form), "{text}");
        }
        for text in ["366d", "99999999999999999999h", "18446744073709551615ms18446744073709551615d"] {
            assert!(
                matches!(duration(text, Duration::ZERO, LONGEST), Err(DurationError::Range { .. })),
                "{text}"
            );
        }
        assert_eq!(duration("off", Duration::ZERO, LONGEST), Err(DurationError::Off));
    }

    #[test]
    fn a_shown_duration_reads_back() {
        for millis in [0, 1, 999, 1000, 61_000, 60_000, 3_600_000, 3_601_000, 86_400_000] {
            let one = Duration::from_millis(millis);
            assert_eq!(duration(&show(one), Duration::ZERO, LONGEST), Ok(one));
        }
    }

    #[test]
    fn dns_names_are_host_names_in_lower_case() {
        let long = format!("{}.x", "a".repeat(63));
        let too_long = ["a".repeat(60).as_str(); 5].join(".");
        for name in ["a", "web.example.org", "xn--bcher-kva.example", "1.2", long.as_str()] {
            assert_eq!(dns_name(name).as_deref(), Ok(name));
        }
        for (name, want) in [
            ("", DnsNameError::Label(0)),
            (".a", DnsNameError::Label(0)),
            ("a.", DnsNameError::Label(0)),
            (&format!("{}b.x", "a".repeat(63)), DnsNameError::Label(64)),
            (&too_long, DnsNameError::TooLong(304)),
            ("A", DnsNameError::Character('A')),
            ("*.a", DnsNameError::Character('*')),
            ("a_b", DnsNameError::Character('_')),
            ("-a", DnsNameError::Hyphen),
            ("a-.b", DnsNameError::Hyphen),
        ] {
            assert_eq!(dns_name(name), Err(want), "{name}");
        }
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        assert_eq!(absolute_path("/a//b/./c/"), Ok("/a/b/c".into()));
        assert_eq!(absolute_path("a"), Err(PathError::Relative));
        assert_eq!(absolute_path(""), Err(PathError::Relative));
        assert_eq!(absolute_path("/a/../b"), Err(PathError::DotDot));
        assert_eq!(absolute_path("/a\0b"), Err(PathError::Nul));
        assert_eq!(absolute_path(&"/a".repeat(2048)), Err(PathError::TooLong(4096)));
    }

    #[test]
    fn a_namespace_is_a_name_or_a_path() {
        assert_eq!(netns("web"), Ok("/run/netns/web".into()));
        assert_eq!(netns("/var/run/netns/web"), Ok("/run/netns/web".into()));
        assert_eq!(netns("/proc/1/ns/net"), Ok("/proc/1/ns/net".into()));
        for text in ["", ".", "..", "a/b", "../x"] {
            assert_eq!(netns(text), Err(NetnsError::Form), "{text}");
        }
        assert_eq!(netns("/a/../b"), Err(NetnsError::Path(PathError::DotDot)));
        assert_eq!(netns("a\0"), Err(NetnsError::Path(PathError::Nul)));
    }

    #[test]
    fn one_cgroup_has_one_form_whichever_way_it_is_written() {
        let root = Some(Path::new("/mnt/cg"));
        for text in
            ["k/p", "/k/p", "/k//p/", "/sys/fs/cgroup/k/p", "/sys/fs/cgroup/unified/k/p", "/mnt/cg/k/p"]
        {
            assert_eq!(cgroup(text, root), Ok("/k/p".into()), "{text}");
        }
        assert_eq!(cgroup("/mnt/cg/k/p", None), Ok("/mnt/cg/k/p".into()));
        for text in ["", "/", "//", "/sys/fs/cgroup", "/mnt/cg/"] {
            assert_eq!(cgroup(text, root), Err(CgroupError::Root), "{text}");
        }
        assert_eq!(cgroup("k/../..", root), Err(CgroupError::Path(PathError::DotDot)));
    }

    #[test]
    fn a_network_is_captured_unless_all_of_it_is_special() {
        for (text, never) in [
            ("127.0.0.0/8", true),
            ("127.0.0.1", true),
            ("169.254.0.0/16", true),
            ("224.0.0.0/4", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("fe80::/10", true),
            ("ff02::1", true),
            ("::", true),
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("126.0.0.0/7", false),
            ("10.0.0.1", false),
            ("fd00::/8", false),
        ] {
            assert_eq!(never_captured(&cidr(text).unwrap()), never, "{text}");
        }
        assert_eq!(cidr("10.0.0.1/33"), Err(CidrError::Form));
        assert_eq!(cidr("::ffff:10.0.0.1"), Err(CidrError::Mapped));
        assert_eq!(cidr("10.0.0.1/24"), Err(CidrError::HostBits("10.0.0.0/24".parse().unwrap())));
    }
}
