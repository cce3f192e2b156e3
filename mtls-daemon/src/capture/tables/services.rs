//! The endpoints of Services, by sets that are never changed: a Service that has other endpoints gets a set with a new number, is
//! turned to it, and only then the old set goes. Who looks in between finds endpoints of before or after, or none.

use std::collections::{HashMap, HashSet};

use aya::maps::MapError;
use mtls_common::{BackendKey, Endpoint, Service};

use super::compare::{Collected, Wrong};
use super::{Map, ignore_absent};
use crate::capture::address::socket_address;
use crate::capture::error::CaptureError;

/// The two tables.
pub(super) struct Services {
    services: Map<Endpoint, Service>,
    backends: Map<BackendKey, Endpoint>,
    /// The number of the next set; 0: the highest is not known yet.
    next: u32,
}

impl Services {
    pub fn new(services: Map<Endpoint, Service>, backends: Map<BackendKey, Endpoint>) -> Self {
        Self { services, backends, next: 0 }
    }

    /// Adds what is wanted and turns what has changed; what is not wanted stays.
    ///
    /// # Errors
    /// Which table could not be written.
    pub fn upsert(&mut self, wanted: &HashMap<Endpoint, Vec<Endpoint>>) -> Result<(), Failed> {
        for (at, endpoints) in wanted {
            if !self.is_as(at, endpoints) {
                let set = self.new_set()?;
                let mut backends = 0;
                for endpoint in endpoints {
                    let key = BackendKey { set, index: backends };
                    self.backends.insert(key, *endpoint, 0).map_err(Failed::Backends)?;
                    backends = backends.saturating_add(1);
                }
                self.services.insert(*at, Service { set, backends }, 0).map_err(Failed::Services)?;
            }
        }
        Ok(())
    }

    /// Removes the Services that are not wanted, and then every set that none leads to.
    ///
    /// # Errors
    /// Which table could not be written.
    pub fn remove_others(&mut self, wanted: &HashMap<Endpoint, Vec<Endpoint>>) -> Result<(), Failed> {
        super::remove_others(&mut self.services, wanted).map_err(Failed::Services)?;
        let live: HashSet<u32> =
            self.services.iter().filter_map(Result::ok).map(|(_, service)| service.set).collect();
        let stale: Vec<BackendKey> =
            self.backends.keys().filter_map(Result::ok).filter(|key| !live.contains(&key.set)).collect();
        stale.iter().try_for_each(|key| ignore_absent(self.backends.remove(key))).map_err(Failed::Backends)
    }

    fn is_as(&self, at: &Endpoint, endpoints: &[Endpoint]) -> bool {
        self.services.get(at, 0).is_ok_and(|service| self.is_set(service, endpoints))
    }

    fn is_set(&self, service: Service, endpoints: &[Endpoint]) -> bool {
        let same = |(index, wanted): (u32, &Endpoint)| {
            self.backends.get(&BackendKey { set: service.set, index }, 0).is_ok_and(|there| there == *wanted)
        };
        usize::try_from(service.backends) == Ok(endpoints.len()) && (0..).zip(endpoints).all(same)
    }

    fn new_set(&mut self) -> Result<u32, Failed> {
        if self.next == 0 {
            for key in self.backends.keys() {
                self.next = self.next.max(key.map_err(Failed::Backends)?.set);
            }
            for service in self.services.iter() {
                self.next = self.next.max(service.map_err(Failed::Services)?.1.set);
            }
            self.next = self.next.wrapping_add(1);
        }
        let set = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        Ok(set)
    }

    /// Services that are not as wanted, and endpoints of sets that none leads to.
    pub fn differences(
        &self,
        wanted: &HashMap<Endpoint, Vec<Endpoint>>,
    ) -> Result<(Collected, Collected), Failed> {
        let there: Result<HashMap<Endpoint, Service>, MapError> = self.services.iter().collect();
        let there = there.map_err(Failed::Services)?;
        let mut services = Collected::default();
        for (at, endpoints) in wanted {
            match there.get(at) {
                None => services.push(Wrong::Missing, socket_address(at)),
                Some(service) if !self.is_set(*service, endpoints) => {
                    services.push(Wrong::Changed, socket_address(at));
                }
                Some(_) => {}
            }
        }
        for at in there.keys().filter(|at| !wanted.contains_key(*at)) {
            services.push(Wrong::Foreign, socket_address(at));
        }
        let sizes: HashMap<u32, u32> =
            there.values().map(|service| (service.set, service.backends)).collect();
        let mut backends = Collected::default();
        for key in self.backends.keys() {
            let key = key.map_err(Failed::Backends)?;
            if sizes.get(&key.set).is_none_or(|size| key.index >= *size) {
                backends.push(Wrong::Foreign, key);
            }
        }
        Ok((services, backends))
    }

    #[cfg(test)]
    pub fn of(&self, at: &Endpoint) -> Option<Vec<Endpoint>> {
        let service = self.services.get(at, 0).ok()?;
        (0..service.backends)
            .map(|index| self.backends.get(&BackendKey { set: service.set, index }, 0).ok())
            .collect()
    }
}

/// Which of the two tables cannot be read or written.
pub(super) enum Failed {
    Services(MapError),
    Backends(MapError),
}

impl Failed {
    /// By the table's name.
    pub fn into_error(self) -> CaptureError {
        match self {
            Self::Services(error) => CaptureError::map("SERVICES")(error),
            Self::Backends(error) => CaptureError::map("BACKENDS")(error),
        }
    }
}
