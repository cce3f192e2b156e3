mod file;
mod properties;
mod replay;
mod rollout;
mod store;

use std::net::IpAddr;
use std::time::Duration;

use super::judge::Ground;
use super::*;
use crate::config::{self, Config};
use crate::directory::Directory;
use crate::identity::{CertificateAttributes, PeerName};
use crate::observe::{Direction, Reason};
use crate::policy::Policy;
use crate::snapshot::testing::config;

const DAY: Duration = Duration::from_secs(86_400);
/// When the tests are.
const NOON: Moment = Moment::from_millis(1_800_000_000_000);

fn settings(entries: u32) -> config::Flows {
    config::Flows { entries, keep: Some(7 * DAY) }
}

/// A store that was begun ten days ago.
fn flows(entries: u32) -> Flows {
    Flows::at(settings(entries), None, NOON.before(10 * DAY))
}

fn ago(seconds: u64) -> Moment {
    NOON.before(Duration::from_secs(seconds))
}

fn address(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    [10, 0, high, low].into()
}

fn spiffe(id: &str) -> PeerName {
    PeerName::Spiffe(id.parse().unwrap())
}

/// What happens to port 80 of db.
struct Db<'f>(&'f Flows);

impl Db<'_> {
    fn plain(&self, from: u16, outcome: Outcome<'_>, at: Moment) {
        let tuple = Tuple::unproven(Direction::Inbound, "db", 80, address(from), Channel::Plaintext);
        self.0.note_at(&tuple, &outcome, at);
    }

    fn proven(&self, name: &PeerName, from: u16, outcome: Outcome<'_>, at: Moment) {
        let tuple = Tuple::unproven(Direction::Inbound, "db", 80, address(from), Channel::MutualTls);
        self.0.note_at(&Tuple { name: Some(name), ..tuple }, &outcome, at);
    }
}

fn open() -> Outcome<'static> {
    Outcome::allowed("default of permissive")
}

/// What a configuration consists of, to judge by.
struct Compiled {
    config: Config,
    policy: Policy,
    directory: Directory,
}

impl Compiled {
    fn new(config: Config) -> Self {
        let (policy, directory) = (Policy::from_config(&config), Directory::from_config(&config));
        Self { config, policy, directory }
    }

    fn parse(text: &str) -> Self {
        Self::new(config(text))
    }

    fn ground(&self) -> Ground<'_> {
        Ground { config: &self.config, policy: &self.policy, directory: &self.directory }
    }
}
