//! The datapath `direct`, as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::{Given, Number};
use crate::config::direct::DirectChoice;

/// The datapath `direct`: the applications' own sockets carry TLS and nobody relays.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Direct {
    /// Of workloads that do not say so themselves: never (default); auto: a relay carries what cannot be direct;
    /// require: what cannot be direct fails.
    pub default: Given<DirectChoice>,
    /// Where this node's daemon takes sessions of other daemons, ADDRESS:PORT. Default: nowhere.
    pub listen: Given<String>,
    /// What is remembered of attempts that failed.
    pub unfit: Unfit,
}

/// What is remembered of pairs of workload and destination, or workload and own port, for which `direct` failed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Unfit {
    /// How many pairs, 1 to 262144. Default 4096.
    pub entries: Given<Number>,
    /// How long a relay carries their connections after a first failure, 1s to 1d; each further one doubles it. Default 10m.
    pub retry: Given<String>,
    /// The most that doubling makes of it, up to 7d. Default 4h.
    pub retry_limit: Given<String>,
}
