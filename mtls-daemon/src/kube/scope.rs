//! Which objects of a resource are listed and watched.

use super::names::{Name, NamespaceName};
use super::resource::Resource;

/// All of them, or some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only in this namespace.
    pub namespace: Option<NamespaceName>,
    /// Only pods of this node.
    pub node: Option<Name>,
}

impl Scope {
    /// Path and query, with these parameters behind it.
    pub(super) fn path(&self, resource: &Resource, parameters: &[(&str, &str)]) -> String {
        let mut path = resource.all(self.namespace.as_ref());
        let node = self.node.as_ref().map(|node| format!("spec.nodeName={node}"));
        let selector = node.iter().map(|node| ("fieldSelector", node.as_str()));
        for (index, (name, value)) in selector.chain(parameters.iter().copied()).enumerate() {
            path.push(if index == 0 { '?' } else { '&' });
            path.push_str(name);
            path.push('=');
            encode(value, &mut path);
        }
        path
    }
}

/// Percent-encoding of all that is not unreserved (RFC 3986, section 2.3): a `continue` token is the server's text.
fn encode(value: &str, out: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::resource::PODS;

    #[test]
    fn what_the_server_said_cannot_change_the_request() {
        let scope = Scope { node: Some("n1".parse().unwrap()), ..Scope::default() };
        assert_eq!(
            scope.path(&PODS, &[("limit", "5"), ("continue", "a&watch=1 #é")]),
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=5&continue=a%26watch%3D1%20%23%C3%A9"
        );
        assert_eq!(Scope::default().path(&PODS, &[]), "/api/v1/pods");
    }
}
