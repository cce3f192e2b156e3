//! How far what is known of the cluster can be believed.

use std::time::Duration;

use crate::kube::objects::Kind;
use crate::kube::{KubeError, Reflector, Refused, Standing};

/// From this age on it is an alarm that nothing was heard of a resource: bookmarks come each minute.
pub const STALE: Duration = Duration::from_secs(300);

/// How one resource stands.
#[derive(Debug, Clone)]
pub struct ResourceStanding {
    /// As RBAC writes it: `pods`.
    pub resource: String,
    /// How long ago the API server last said what is; `None`: never.
    pub age: Option<Duration>,
    /// For how long it is followed.
    pub followed: Duration,
    /// Why it is not current; `None`: it is.
    pub trouble: Option<String>,
    /// How many objects are known.
    pub objects: usize,
    /// Objects that cannot be read.
    pub refused: Vec<Refused>,
}

impl ResourceStanding {
    /// Nothing was heard for too long.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.trouble.is_some() && self.age.unwrap_or(self.followed) >= STALE
    }
}

/// A copy of some resource.
pub(super) trait Follows {
    /// `followed`: for how long.
    fn standing(&self, followed: Duration) -> ResourceStanding;

    /// Has all been heard once, or is there nothing to be heard?
    fn is_known(&self) -> bool;
}

impl<K: Kind> Follows for Reflector<K> {
    fn standing(&self, followed: Duration) -> ResourceStanding {
        let trouble = match Reflector::standing(self) {
            Standing::Current => None,
            Standing::Starting => Some("nothing was heard yet".to_owned()),
            Standing::Behind(_) if is_not_installed(self) => None,
            Standing::Behind(error) => Some(error.to_string()),
            Standing::Doubted { kept, listed } => {
                Some(format!("a list has {listed} in the place of {kept}; it is asked for once more"))
            }
        };
        ResourceStanding {
            resource: K::RESOURCE.to_string(),
            age: self.age(),
            followed,
            trouble,
            objects: self.with(std::collections::BTreeMap::len),
            refused: self.refused(),
        }
    }

    fn is_known(&self) -> bool {
        self.is_complete() || is_not_installed(self)
    }
}

/// A resource whose definition is not in the cluster has no objects. What is built in is always there.
fn is_not_installed<K: Kind>(reflector: &Reflector<K>) -> bool {
    let behind = match reflector.standing() {
        Standing::Behind(error) => matches!(*error, KubeError::NotFound { .. }),
        _ => false,
    };
    behind && K::RESOURCE.group.contains('.') && !K::RESOURCE.group.ends_with(".k8s.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(age: Option<u64>, trouble: Option<&str>) -> ResourceStanding {
        ResourceStanding {
            resource: "pods".into(),
            followed: Duration::from_secs(300),
            age: age.map(Duration::from_secs),
            trouble: trouble.map(str::to_owned),
            objects: 0,
            refused: Vec::new(),
        }
    }

    #[test]
    fn what_was_heard_is_an_alarm_from_five_minutes_on() {
        assert!(!standing(Some(299), Some("away")).is_stale());
        assert!(standing(Some(300), Some("away")).is_stale());
        let never = standing(None, Some("never"));
        assert!(never.is_stale());
        let young = ResourceStanding { followed: Duration::from_secs(299), ..never };
        assert!(!young.is_stale(), "a daemon that has just begun");
        assert!(!standing(Some(3_600), None).is_stale(), "it is followed");
    }
}
