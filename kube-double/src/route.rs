//! What a request asks for.

use std::collections::HashMap;

use crate::answer::Failure;
use crate::object::Key;
use crate::resource::{RESOURCES, Resource};
use crate::select::Selector;
use crate::store::Scope;

/// A request, read.
#[derive(Debug)]
pub(crate) enum Route {
    /// Discovery, by its path.
    Discovery(String),
    List(Scope, Query),
    Watch(Scope, Query),
    Create(&'static Resource, String),
    Get(&'static Resource, Key),
    /// Whole, or only its status.
    Replace(&'static Resource, Key, bool),
    Patch(&'static Resource, Key, bool),
    Delete(&'static Resource, Key),
}

/// The parameters behind the `?`.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        Self(text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect())
    }

    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A whole number; 0 if there is none.
    pub fn number(&self, name: &str) -> Result<u64, Failure> {
        match self.text(name) {
            "" => Ok(0),
            text => text.parse().map_err(|_| Failure::bad(&format!("{name}={text:?} is no whole number"))),
        }
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match (first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Route {
    /// Reads method, path and query.
    pub fn parse(method: &str, path: &str, query: &str) -> Result<Self, Failure> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Ok(Self::Discovery(format!("/{}", parts.join("/")))),
        };
        let find = |plural: &str| {
            let mut all = RESOURCES.iter();
            all.find(|one| (one.group, one.version, one.plural) == (group, version, plural))
                .ok_or_else(Failure::no_such_path)
        };
        let (resource, namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
                (find(plural)?, *namespace, rest)
            }
            [plural, rest @ ..] => (find(plural)?, "", rest),
            [] => return Err(Failure::no_such_path()),
        };
        let query = Query::parse(query);
        let scope = || -> Result<Scope, Failure> {
            let selector = Selector::parse(query.text("fieldSelector"), query.text("labelSelector"))?;
            Ok(Scope { resource, namespace: namespace.to_owned(), selector })
        };
        let (name, status) = match rest {
            [] => (None, false),
            [name] => (Some(*name), false),
            [name, "status"] if resource.status => (Some(*name), true),
            _ => return Err(Failure::no_such_path()),
        };
        Ok(match (method, name.map(|name| Key::new(resource, namespace, name))) {
            ("GET", None) if query.is_true("watch") => Self::Watch(scope()?, query),
            ("GET", None) => Self::List(scope()?, query),
            ("POST", None) => Self::Create(resource, namespace.to_owned()),
            ("GET", Some(key)) => Self::Get(resource, key),
            ("PUT", Some(key)) => Self::Replace(resource, key, status),
            ("PATCH", Some(key)) => Self::Patch(resource, key, status),
            ("DELETE", Some(key)) if !status => Self::Delete(resource, key),
            _ => {
                let message = format!("the server does not allow {method} here");
                return Err(Failure::new(405, "MethodNotAllowed", message));
            }
        })
    }

    /// The verb of an access rule, the resource and the namespace, for what is about objects.
    pub fn subject(&self) -> Option<(&'static str, &'static Resource, &str)> {
        Some(match self {
            Self::Discovery(_) => return None,
            Self::List(scope, _) => ("list", scope.resource, &scope.namespace),
            Self::Watch(scope, _) => ("watch", scope.resource, &scope.namespace),
            Self::Create(resource, namespace) => ("create", resource, namespace),
            Self::Get(resource, key) => ("get", resource, &key.namespace),
            Self::Replace(resource, key, _) => ("update", resource, &key.namespace),
            Self::Patch(resource, key, _) => ("patch", resource, &key.namespace),
            Self::Delete(resource, key) => ("delete", resource, &key.namespace),
        })
    }

    /// The verb by which a fault is aimed: as [`Route::subject`], but `page` for a list that goes on.
    pub fn aim(&self) -> Option<(&'static str, &'static str)> {
        let (verb, resource, _) = self.subject()?;
        let goes_on = matches!(self, Self::List(_, query) if !query.text("continue").is_empty());
        Some((if goes_on { "page" } else { verb }, resource.plural))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(method: &str, path: &str, query: &str) -> String {
        match Route::parse(method, path, query) {
            Ok(Route::Discovery(path)) => path,
            Ok(route) => {
                let (verb, resource, namespace) = route.subject().unwrap();
                format!("{verb} {} {namespace}", resource.plural)
            }
            Err(failure) => failure.code.to_string(),
        }
    }

    #[test]
    fn paths_are_read_as_the_real_server_reads_them() {
        for (method, path, query, want) in [
            ("GET", "/api/v1/pods", "limit=500", "list pods "),
            ("GET", "/api/v1/pods", "watch=true", "watch pods "),
            ("GET", "/api/v1/namespaces", "", "list namespaces "),
            ("GET", "/api/v1/namespaces/shop", "", "get namespaces "),
            ("PATCH", "/api/v1/namespaces/shop/status", "", "patch namespaces "),
            ("GET", "/api/v1/namespaces/shop/pods/web", "", "get pods shop"),
            (
                "POST",
                "/apis/security.istio.io/v1/namespaces/a/peerauthentications",
                "",
                "create peerauthentications a",
            ),
            (
                "PATCH",
                "/apis/mtlsd.io/v1alpha1/namespaces/a/mutualtlspolicies/p/status",
                "",
                "patch mutualtlspolicies a",
            ),
            ("PATCH", "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/p/status", "", "404"),
            ("DELETE", "/api/v1/namespaces/shop/pods/web", "", "delete pods shop"),
            ("DELETE", "/api/v1/namespaces/shop/pods", "", "405"),
            ("GET", "/api/v1/secrets", "", "404"),
            ("GET", "/apis/discovery.k8s.io/v1/pods", "", "404"),
            ("GET", "/api/v1", "", "/api/v1"),
            ("GET", "/version", "", "/version"),
        ] {
            assert_eq!(shown(method, path, query), want, "{method} {path}?{query}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("fieldSelector=spec.nodeName%3Dn1&limit=5&watch=1&bad=%zz&x=a+b");
        assert_eq!((query.text("fieldSelector"), query.number("limit")), ("spec.nodeName=n1", Ok(5)));
        assert_eq!((query.is_true("watch"), query.text("bad"), query.text("x")), (true, "%zz", "a b"));
        assert!(query.number("x").is_err());
    }
}
