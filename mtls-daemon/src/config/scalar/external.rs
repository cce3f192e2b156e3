//! Where a policy engine is.

use std::net::IpAddr;

use ureq::http::Uri;

use crate::fetch::is_url;

/// Why a text is not the URL of a policy engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalUrlError {
    /// Not `https://host:port/path`.
    #[error(
        "it is not a URL with a scheme, a host and a path; write it as http://127.0.0.1:8181/v1/data/mtlsd/allow"
    )]
    Form,
    /// A user name, which would be sent to nobody.
    #[error("there is a user name in it; remove it, and write a token into a `token_file`")]
    User,
    /// `http://` to another machine.
    #[error(
        "anybody on the way could answer in its place; write https://, or http:// and a loopback address"
    )]
    Plain,
}

/// `https://…`, or `http://` and a loopback address; with a path, which names the decision.
pub(in crate::config) fn external_url(text: &str) -> Result<String, ExternalUrlError> {
    let uri: Uri = text.parse().map_err(|_| ExternalUrlError::Form)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(ExternalUrlError::Form);
    };
    let host = authority.host();
    if !is_url(text) || host.is_empty() || matches!(uri.path(), "" | "/") {
        return Err(ExternalUrlError::Form);
    }
    if authority.as_str().contains('@') {
        return Err(ExternalUrlError::User);
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if scheme == "http" && host != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
        return Err(ExternalUrlError::Plain);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_engine_is_asked_over_tls_unless_it_is_on_this_machine() {
        for text in [
            "http://127.0.0.1:8181/v1/data/mtlsd/allow",
            "http://[::1]:8181/v1/data/mtlsd",
            "http://localhost/v0/data/x",
            "https://opa.example.org/v1/data/mtlsd/allow?metrics=true",
        ] {
            assert_eq!(external_url(text), Ok(text.to_owned()));
        }
        for (text, why) in [
            ("http://10.0.0.1:8181/v1/data/mtlsd", ExternalUrlError::Plain),
            ("http://opa/v1/data/mtlsd", ExternalUrlError::Plain),
            ("http://localhost.example.org/v1/data/mtlsd", ExternalUrlError::Plain),
            ("https://opa", ExternalUrlError::Form),
            ("https://opa/", ExternalUrlError::Form),
            ("ftp://127.0.0.1/v1/data", ExternalUrlError::Form),
            ("unix:///run/opa.sock", ExternalUrlError::Form),
            ("/run/opa.sock", ExternalUrlError::Form),
            ("", ExternalUrlError::Form),
            ("https://me@opa/v1/data", ExternalUrlError::User),
            ("http://127.0.0.1@evil.example/v1/data", ExternalUrlError::User),
        ] {
            assert_eq!(external_url(text), Err(why), "{text}");
        }
    }
}
