//! Where Vault is, and names in it.

use std::net::IpAddr;

use ureq::http::Uri;

/// Why a text is not an address of Vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultAddressError {
    /// Not `https://host:port`.
    #[error("it is not a scheme, a host and perhaps a port; write it as https://vault.example.org:8200")]
    Form,
    /// A path, a query or a user, which would change what is asked.
    #[error("there is more than scheme, host and port; write it as https://vault.example.org:8200")]
    More,
    /// `http://` to another machine.
    #[error(
        "the token would travel readable for everybody; write https://, or the address of an agent on loopback"
    )]
    Plain,
}

/// `https://host:port`, or `http://` and a loopback address; without a slash at its end.
pub(in crate::config) fn vault_address(text: &str) -> Result<String, VaultAddressError> {
    let uri: Uri = text.parse().map_err(|_| VaultAddressError::Form)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(VaultAddressError::Form);
    };
    let host = authority.host();
    if !matches!(scheme, "http" | "https") || host.is_empty() {
        return Err(VaultAddressError::Form);
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(VaultAddressError::More);
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if scheme == "http" && host != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
        return Err(VaultAddressError::Plain);
    }
    Ok(format!("{scheme}://{authority}"))
}

/// Why a text is not a path or name in Vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultPathError {
    /// An empty part, as with a slash at an end.
    #[error("a part of it is empty; write it without '/' at its start and end, such as pki_int")]
    Empty,
    /// `.` or `..`.
    #[error("it has the part {0:?}; write where it is in Vault, such as pki_int")]
    Dots(&'static str),
    /// A character that would need an escape in a URL.
    #[error("it has the character {0:?}; use letters, digits, '-', '_' and '.'")]
    Character(char),
}

/// One part of a path in Vault, such as the name of a role.
pub(in crate::config) fn vault_name(text: &str) -> Result<String, VaultPathError> {
    match text {
        "" => return Err(VaultPathError::Empty),
        "." => return Err(VaultPathError::Dots(".")),
        ".." => return Err(VaultPathError::Dots("..")),
        _ => {}
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        Some(bad) => Err(VaultPathError::Character(bad)),
        None => Ok(text.to_owned()),
    }
}

/// A path in Vault: names with `/` between them.
pub(in crate::config) fn vault_path(text: &str) -> Result<String, VaultPathError> {
    text.split('/').try_for_each(|part| vault_name(part).map(drop))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vault_is_asked_over_tls_unless_it_is_on_this_machine() {
        for (text, want) in [
            ("https://vault.example.org:8200", "https://vault.example.org:8200"),
            ("https://vault/", "https://vault"),
            ("https://[fd00::7]:8200", "https://[fd00::7]:8200"),
            ("http://127.0.0.1:8100", "http://127.0.0.1:8100"),
            ("http://[::1]:8100", "http://[::1]:8100"),
            ("http://localhost:8100", "http://localhost:8100"),
        ] {
            assert_eq!(vault_address(text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [
            ("", VaultAddressError::Form),
            ("vault:8200", VaultAddressError::Form),
            ("/v1", VaultAddressError::Form),
            ("https://", VaultAddressError::Form),
            ("ftp://vault", VaultAddressError::Form),
            ("https://va ult", VaultAddressError::Form),
            ("https://vault/v1", VaultAddressError::More),
            ("https://vault?x=y", VaultAddressError::More),
            ("https://root@vault", VaultAddressError::More),
            ("http://vault:8200", VaultAddressError::Plain),
            ("http://10.0.0.1", VaultAddressError::Plain),
            ("http://localhost.example.org", VaultAddressError::Plain),
        ] {
            assert_eq!(vault_address(text), Err(want), "{text}");
        }
    }

    #[test]
    fn a_path_in_vault_needs_no_escape_and_leads_nowhere_else() {
        assert_eq!(vault_path("team/pki_int-1.2").as_deref(), Ok("team/pki_int-1.2"));
        for (text, want) in [
            ("", VaultPathError::Empty),
            ("/pki", VaultPathError::Empty),
            ("pki/", VaultPathError::Empty),
            ("a//b", VaultPathError::Empty),
            ("a/../sys", VaultPathError::Dots("..")),
            ("./a", VaultPathError::Dots(".")),
            ("a?b", VaultPathError::Character('?')),
            ("a%2f", VaultPathError::Character('%')),
            ("ü", VaultPathError::Character('ü')),
        ] {
            assert_eq!(vault_path(text), Err(want), "{text}");
        }
        assert_eq!(vault_name("a/b"), Err(VaultPathError::Character('/')));
    }
}
