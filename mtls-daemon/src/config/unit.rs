//! Names of systemd units that have processes.

use std::fmt;
use std::str::FromStr;

/// Longest name of a unit, in bytes (systemd.unit(5); `UNIT_NAME_MAX` is 256 with the NUL).
const LONGEST: usize = 255;
/// The kinds of units that have a cgroup of their own with processes in it, or below it.
const KINDS: [&str; 3] = [".service", ".scope", ".slice"];

/// The name of a service, scope or slice of systemd's system instance, such as `nginx.service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(Box<str>);

/// Why a text names no unit that could be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Another kind of unit, or none.
    #[error("it names no service, scope or slice; write its whole name, such as nginx.service")]
    Kind,
    /// Nothing in front of the kind.
    #[error("there is nothing in front of the '.'; write the unit's name")]
    Empty,
    /// systemd.unit(5), "Description".
    #[error(
        "a unit's name has ASCII letters, digits and : - _ . \\ @ only; write it as `systemctl` shows it"
    )]
    Character,
    /// More than systemd takes.
    #[error("it is {0} bytes long; a unit's name has at most 255")]
    Long(usize),
    /// `worker@.service` never runs.
    #[error("it is a template; name an instance of it, such as worker@1.service")]
    Template,
    /// `-.slice` holds everything.
    #[error("it is the root slice, which holds every process and the daemon itself; select one below it")]
    Root,
}

impl UnitName {
    /// As systemd writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let name = KINDS.iter().find_map(|kind| text.strip_suffix(kind)).ok_or(UnitError::Kind)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        match name {
            "" => Err(UnitError::Empty),
            _ if text.len() > LONGEST => Err(UnitError::Long(text.len())),
            _ if !text.bytes().all(allowed) => Err(UnitError::Character),
            _ if name.ends_with('@') => Err(UnitError::Template),
            _ if text == "-.slice" => Err(UnitError::Root),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_systemd_gives_are_taken_as_they_are() {
        for text in [
            "nginx.service",
            "worker@1.service",
            "getty@tty1.service",
            "system-my\\x2dapp.slice",
            "session-3.scope",
            "payments.slice",
            "a:b_c.d.service",
        ] {
            assert_eq!(text.parse::<UnitName>().unwrap().to_string(), text);
        }
        let longest = format!("{}.service", "a".repeat(LONGEST - 8));
        assert_eq!(longest.parse::<UnitName>().unwrap().as_str(), longest);
    }

    #[test]
    fn what_is_no_unit_with_processes_is_refused_with_the_reason() {
        for (text, why) in [
            ("", UnitError::Kind),
            ("nginx", UnitError::Kind),
            ("nginx.socket", UnitError::Kind),
            (".service", UnitError::Empty),
            ("worker@.service", UnitError::Template),
            ("-.slice", UnitError::Root),
            ("a/b.service", UnitError::Character),
            ("../x.service", UnitError::Character),
            ("ä.service", UnitError::Character),
            ("a b.service", UnitError::Character),
            ("a\0.service", UnitError::Character),
        ] {
            assert_eq!(text.parse::<UnitName>(), Err(why), "{text:?}");
        }
        let long = format!("{}.service", "a".repeat(LONGEST - 7));
        assert_eq!(long.parse::<UnitName>(), Err(UnitError::Long(256)));
    }
}
